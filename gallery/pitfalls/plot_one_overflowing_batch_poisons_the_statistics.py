"""
One overflowing batch poisons the moving statistics for ever
============================================================

Training in ``mixed_float16`` skips a step whose gradients are not finite: the weights stay as they
were. The moving statistics do not. After one batch of images that are too large,
:claim:`60 <poisoned>` of 80 statistics are not finite, the test accuracy falls from
:claim:`93 % <before>` to :claim:`10 % <after>`, and 39 more steps on good images leave it at
:claim:`10 % <stays>`. Put back where they are not finite, they cost nothing: :claim:`93 % <right>`.

.. symptom:: NaN or infinity
   :doctor: impossible_population
   :cause: one batch overflowed; loss scaling skipped the step, but not the statistics
   :check: ``np.isfinite(norm.variance).all()`` for each ``norm`` of ``bnref.norms.find(model)``

.. symptom:: test accuracy near chance
   :cause: one batch overflowed; loss scaling skipped the step, but not the statistics
   :check: ``np.isfinite(norm.variance).all()`` for each ``norm`` of ``bnref.norms.find(model)``
   :likelihood: seldom
   :question: 2
"""

# %%
# Check
# -----
# The check looks at the numbers of the population: a variance that is negative or not finite, a
# mean that is not finite. Training goes on by the batch's statistics, so the training loss is fine.

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import doctor
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Keep what the statistics were before a step, and put back what is not finite. Where it has
# happened, ``bnref.population.recompute(model, batches)`` cures the model. Better still, find the
# batch: look at the largest input before the step.
#
# Wrong
# ^^^^^


def train_step(model, x, y):
    return model.train_on_batch(x, y)


# %%
# Right
# ^^^^^


def guarded_train_step(model, x, y):
    before = [each.numpy() for each in model.non_trainable_variables]
    results = model.train_on_batch(x, y)
    for variable, old in zip(model.non_trainable_variables, before, strict=True):
        if not np.isfinite(variable.numpy()).all():
            variable.assign(old)
    return results


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how). The exponential average is
#
# .. math:: P \leftarrow \rho P + (1 - \rho) B ,
#
# and if B is infinite or NaN once, P is for ever: no momentum below 1 forgets it. float16 ends at
# 65,504, which a convolution of large inputs passes. The loss and its gradients are then NaN, and
# ``LossScaleOptimizer`` skips the weights' step and halves its scale, which is what it is for
# (Micikevicius et al. 2018, `arXiv 1710.03740 <https://arxiv.org/abs/1710.03740>`_, section 3.2).
# The statistics were assigned in the forward pass, before anybody looked.
#
# Met in `pytorch/pytorch#88474 <https://github.com/pytorch/pytorch/issues/88474>`_ and
# `pytorch/pytorch#90342 <https://github.com/pytorch/pytorch/issues/90342>`_.
#
# With float32 or bfloat16 one batch with a NaN pixel does the same, and poisons the weights too.
#
# Experiment
# ----------
# Digits at half the width and height, Adam with loss scaling. Step 81 gets images that are a
# million times as large, as from a file that was read with the wrong type.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
BAD = 80
STEPS = 120


def network():
    def norm():
        return keras.layers.BatchNormalization(momentum=0.9)

    return models.three_convolutions(norm, image_shape=(14, 14, 1), filters=(8, 16, 16))


keras.config.set_dtype_policy("mixed_float16")
model = network()
keras.config.set_dtype_policy("float32")
model.compile(
    keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)

# %%


def not_finite():
    return sum(np.sum(~np.isfinite(each.numpy())) for each in model.non_trainable_variables)


def accuracy():
    logits = model.predict_on_batch(x_test)
    return np.mean(np.argmax(logits, axis=-1) == data.y_test)


def accuracies(step, seed):
    """Test accuracies every twenty steps; what the bad step changed."""
    restart(model, model.optimizer, network, seed=seed)
    random, found, changes = np.random.default_rng(seed), [], {}
    for number in range(STEPS):
        chosen = random.integers(0, len(x_train), 64)
        factor = 1e6 if number == BAD else 1
        if number == BAD:
            weights = [each.numpy() for each in model.trainable_variables]
        step(model, factor * x_train[chosen], data.y_train[chosen])
        if number == BAD:
            pairs = zip(weights, model.trainable_variables, strict=True)
            changes["weights"] = any((old != new.numpy()).any() for old, new in pairs)
            changes["not finite"] = not_finite()
        if number % 20 == 19 or number == BAD:
            found.append((number + 1, accuracy()))
    return np.array(found), changes


SEEDS = range(scale.at_scale(quick=3, full=10))
plain = [accuracies(train_step, seed) for seed in SEEDS]
left_poisoned = doctor.examine(
    model, (x_train[:64], data.y_train[:64]), only=["impossible_population"]
)
guarded = [accuracies(guarded_train_step, seed) for seed in SEEDS]
left_guarded = doctor.examine(
    model, (x_train[:64], data.y_train[:64]), only=["impossible_population"]
)

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
for name, runs, style in (("not put back", plain, "C1X-"), ("put back", guarded, "C0o--")):
    for rows, _ in runs:
        ax.plot(*rows.T, style, lw=1, ms=4)
    ax.plot([], [], style, label=f"statistics {name}")
ax.axvline(BAD + 1, color="#555555", ls=":", label="the bad batch")
ax.set(title="One batch a million times too large", xlabel="step", ylabel="test accuracy")
ax.set(ylim=(0, 1))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----
# What the bad step changed, and the accuracies around it.

curves = np.array([rows[:, 1] for rows, _ in plain])
kept = np.array([rows[:, 1] for rows, _ in guarded])
steps = plain[0][0][:, 0]
before, after = np.flatnonzero(steps <= BAD)[-1], np.flatnonzero(steps == BAD + 1)[0]
poisoned = [changes["not finite"] for _, changes in plain]
claim("poisoned", poisoned, "statistics that are not finite after one bad batch, of 80", above=20)
claim("before", curves[:, before], "test accuracy before the bad batch", above=0.75)
claim("after", curves[:, after], "test accuracy after it", below=0.2)
claim("stays", curves[:, -1], "test accuracy 39 good steps later", below=0.2)
claim("right", kept[:, -1], "the same, statistics put back", above=0.75)
assert not any(changes["weights"] for _, changes in plain), "the weights stayed to the bit"
assert not any(changes["not finite"] for _, changes in guarded), "all statistics are finite"
evidence = [finding.evidence for finding in left_poisoned.findings]
print("the doctor:", *evidence)
assert evidence, "the check fires on the poisoned model"
assert not left_guarded.findings, "and is silent on the other"
