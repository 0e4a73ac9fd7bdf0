"""
What are renorm and renorm_momentum?
====================================

``renorm=True`` turns batch norm into another algorithm, batch renormalization. In training it
corrects the output of a batch towards what averages of earlier batches would have given, and
``renorm_momentum`` is the momentum of these averages. In the first two batches after all inputs
jump by 3, the mean of the outputs is :claim:`1.1 <fast_jump>` with a ``renorm_momentum`` of 0.5;
ten batches later it is :claim:`-0.1 <fast_later>`. With 0.99 it is still :claim:`2.1 <slow_later>`
then. Batch norm hides the jump. Without ``renorm=True``, ``renorm_momentum`` does nothing: outputs
and averages are equal to the last bit. To port a network, leave both alone, and set ``momentum``.

.. symptom:: numbers differ from PyTorch
   :cause: renorm=True, which PyTorch's layers do not have
   :check: ``hasattr(layer, "renorm_mean")`` is True
   :likelihood: seldom
   :question: 3
"""

# %%
# Check
# -----
# ``renorm_variables`` finds the variables that only renorm has. Give it the names of yours:
# ``[each.path for each in model.variables]``, or in TensorFlow 1 ``[each.op.name for each in
# tf.global_variables()]``.

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from bnref import tf1
from bnref_gallery import scale
from bnref_gallery.claims import claim

# %%


def renorm_variables(names):
    last = {name: name.split("/")[-1] for name in names}
    return [name for name in names if last[name].startswith(("renorm_mean", "renorm_stddev"))]


# %%
# Fix
# ---
# ``momentum`` is what belongs to a plain batch norm, and 0.1 is what Lasagne's alpha of 0.9 means
# there. ``renorm_momentum`` alone leaves it at 0.99; with ``renorm=True`` the layer is another one.
#
# Wrong, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def renormalized(x):
    return batch_normalization(
        x,
        training=True,
        name="bn",
        renorm=True,
        renorm_momentum=0.1,
    )


# %%
# Right, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def normalized(x):
    return batch_normalization(
        x,
        training=True,
        name="bn",
        momentum=0.1,
    )


# %%
# Wrong
# ^^^^^


def renorm_layer():
    return keras.layers.BatchNormalization(
        renorm=True,
        renorm_momentum=0.1,
    )


# %%
# Right
# ^^^^^


def norm_layer():
    return keras.layers.BatchNormalization(
        momentum=0.1,
    )


# %%
# Why
# ---
# Nothing goes wrong here: renorm gives another answer to question 3 (used when). With
# the mean and deviation of the batch, μ and σ, and their averages, μ_P and σ_P, it gives
#
# .. math:: y = \gamma\,(\hat x\, r + d) + \beta, \quad \hat x = \frac{x - \mu}{\sigma},
#    \quad r = \frac{\sigma}{\sigma_P}, \quad d = \frac{\mu - \mu_P}{\sigma_P}.
#
# Without limits on r and d this is γ(x − μ_P)/σ_P + β: a jump is seen until μ_P has followed. The
# paper (Ioffe 2017, arXiv 1702.03275, Algorithm 1) has one momentum for all averages; TensorFlow
# has ``renorm_momentum`` for μ_P and σ_P, and ``momentum`` for what inference uses.
# :class:`bnref.layers.BatchRenorm` keeps to the paper, and to its schedules for the limits.
#
# The post of :doc:`alpha and momentum </gallery/questions/plot_alpha_and_momentum>` asks this. Its
# answer says that ``renorm_momentum`` counts only with ``renorm=True``, and is right. When renorm
# helps: :doc:`/gallery/variants/plot_batch_renorm_and_its_schedules`.
#
# Experiment
# ----------
# The real ``tf.layers.batch_normalization`` gets batches of 8 in training mode; their mean jumps
# from 0 to 3 after 15 of them.

v1 = tf.compat.v1
warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")
SEEDS = range(scale.at_scale(quick=3, full=10))


def batches(seed):
    random = np.random.default_rng(seed)
    means = np.repeat([0.0, 3.0], 15)
    return [random.normal(mean, 2, (8, 1)).astype("f4") for mean in means]


def trained(norm, seed):
    """Outputs of every batch, shape (30, 8), and the variables at the end, by name."""
    outputs = []
    with tf1.tensorflow_1(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 1))
        y = norm(x)
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        session.run(v1.global_variables_initializer())
        for batch in batches(seed):
            outputs.append(session.run(y, {x: batch}))
            session.run(updates, {x: batch})  # after the output, so that r and d are those before
        variables = {each.op.name: session.run(each) for each in v1.global_variables()}
    return np.squeeze(outputs), variables


# %%


def of_options(**options):
    """Outputs for each seed, shape (seeds, 30, 8), and the variables of the last one."""

    def norm(x):
        return batch_normalization(x, momentum=0.9, training=True, name="bn", **options)

    found = [trained(norm, seed) for seed in SEEDS]
    return np.array([outputs for outputs, _ in found]), found[-1][1]


plain, variables = of_options()
ignored, same_variables = of_options(renorm_momentum=0.5)  # without renorm=True
fast, renormed = of_options(renorm=True, renorm_momentum=0.5)
slow, _ = of_options(renorm=True, renorm_momentum=0.99)
print("variables:          ", ", ".join(variables))
print("with renorm=True:   ", ", ".join(renormed))

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for outputs, style, name in (
    (plain, "C0-", "renorm=False, whatever renorm_momentum"),
    (fast, "C1o-", "renorm=True, renorm_momentum=0.5"),
    (slow, "C2s-", "renorm=True, renorm_momentum=0.99"),
):
    means = outputs.mean(2)
    ax.plot(range(1, 31), means.mean(0), style, ms=4, label=name)
    ax.fill_between(range(1, 31), means.min(0), means.max(0), color=style[:2], alpha=0.15, lw=0)
ax.axvline(15.5, color="C4", lw=1, ls=":")
ax.set(title="All inputs jump by 3 after batch 15", xlabel="batch", ylabel="mean of the output")
fig.legend(loc="outside lower center", ncols=1)
plt.show()

# %%
# Proof
# -----
# What renorm shows, and what ``renorm_momentum`` does without it: nothing.

assert np.array_equal(plain, ignored), "without renorm=True the outputs are equal to the last bit"
for name, value in variables.items():
    assert np.array_equal(value, same_variables[name]), f"and so is {name}"
extra = {name.removeprefix("bn/") for name in set(renormed) - set(variables)}
assert extra == {"moving_stddev", "renorm_mean", "renorm_stddev"}, "renorm has its own averages"
assert np.abs(plain.mean(2)).max() < 1e-4, "batch norm hides the jump"
for name, outputs in (("fast", fast), ("slow", slow)):
    jump, later = outputs[:, 15:17].mean((1, 2)), outputs[:, -5:].mean((1, 2))
    print(f"{name}: mean after the jump {jump.round(2)}, ten batches later {later.round(2)}")
claim("fast_jump", fast[:, 15:17].mean((1, 2)), "mean of two batches after the jump", above=0.6)
later = fast[:, -5:].mean((1, 2))
claim("fast_later", later, "of the last five, renorm_momentum 0.5", above=-0.5, below=0.5)
claim("slow_later", slow[:, -5:].mean((1, 2)), "the same, renorm_momentum 0.99", above=1.2)

# %%
# The four functions of the fix: which of them hide the jump as a plain norm does, which momentum
# they have, and the check.


def eager(layer):
    return np.squeeze([layer(batch, training=True) for batch in batches(0)])


hidden, hidden_variables = trained(normalized, 0)
shown, shown_variables = trained(renormalized, 0)
assert np.abs(hidden.mean(1)).max() < 1e-4, "right: each batch has the mean 0"
assert np.abs(shown.mean(1)).max() > 0.5, "wrong: the jump shows"
right, wrong = norm_layer(), renorm_layer()
assert np.abs(eager(right) - hidden).max() < 1e-4, "Keras 3 has the same outputs, right"
assert np.abs(eager(wrong) - shown).max() < 1e-3, "and wrong"
last = batches(0)[-1].mean()
assert abs(hidden_variables["bn/moving_mean"] - last).item() < 0.5, "right: momentum 0.1"
assert abs(shown_variables["bn/moving_mean"] - 3).item() > 2, "wrong: it is still 0.99"
ours, theirs = right.moving_mean, hidden_variables["bn/moving_mean"]
assert np.allclose(ours, theirs, atol=1e-4), "right, in Keras 3 too"
assert not renorm_variables(hidden_variables), "the check is silent on batch norm"
assert renorm_variables(shown_variables), "and finds renorm"
assert not renorm_variables([each.path for each in right.variables]), "so it is in Keras 3, right"
assert renorm_variables([each.path for each in wrong.variables]), "and wrong"
