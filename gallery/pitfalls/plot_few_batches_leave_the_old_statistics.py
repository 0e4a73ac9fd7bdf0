"""
Fine-tuned on few batches, a model is evaluated by the statistics it came with
==============================================================================

With a momentum of 0.99, **74 %** of the old statistics are left after 30 steps. A network of digits
that is tuned for 30 steps on 100 negatives of digits knows **more than 85 %** of these 100 by their
batches' statistics, and **more than 30 points** fewer at inference, on average over the starts: the
same images, the same weights. By recomputed statistics it knows as many as in training.

The symptom: the training accuracy is high, and evaluation on the very same images is poor. It looks
like overfitting and cannot be that, for these are the training images. Question 2, *remembered
how*, is answered wrongly: the average needs 300 steps to bring its start down to 5 %, and here an
epoch has 5. The start is the old data's statistics, or mean 0 and variance 1 in a new layer.

.. symptom:: fine-tuned model collapses
   :doctor: few_steps
   :cause: few steps: the population is still mostly that of the old data
   :check: evaluate the training images: if they are as poor as the test, it is the statistics

.. symptom:: validation far worse than training
   :doctor: few_steps
   :cause: fewer than about 3/(1 − ρ) steps: the population is still mostly its start
   :check: ``layer.momentum ** steps > 0.05``: this share of the start is left
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale

# %%
# The 100 images are learned in 60 steps of 20: as negatives, by a network that knows digits; and as
# they are, by a new network. Accuracies are those on the 100 images.

data = datasets.load("mnist").take(train=3500, test=500)
x, y = data.x_train[-100:], data.y_train[-100:]
network = partial(models.perceptron, inputs=(28, 28, 1), units=(64, 64))
NORMS = {
    0.99: bnref.BatchNorm,  # wrong, for so few steps
    0.9: partial(bnref.BatchNorm, momentum=0.9),  # right
    "frozen": bnref.FrozenBatchNorm,
}


def learnt(seed):
    keras.utils.set_random_seed(seed)
    model = network(NORMS[0.9])
    options = {"steps": 150, "batch_size": 64, "seed": seed}
    training.train(model, data.x_train[:3000], data.y_train[:3000], **options)
    return model.get_weights()


def accuracies(model, x):
    """By the batches' statistics, and at inference."""
    weights = model.get_weights()
    batches = np.concatenate([model(part, training=True) for part in np.split(x, 5)])
    model.set_weights(weights)  # the calls in training mode have moved the population
    return {"batch": np.mean(batches.argmax(1) == y), "at": training.evaluate(model, x, y)[1]}


def tuned(norm, x, seed, weights=None):
    """Accuracies every 10 steps by batch and at inference; then by recomputed statistics."""
    keras.utils.set_random_seed(seed)
    model = network(NORMS[norm])
    model.set_weights(weights or model.get_weights())
    recomputed = []

    def measure(run):
        if norm != "frozen":
            now = model.get_weights()
            population.recompute(model, np.split(x, 5))  # right
            recomputed.append(training.evaluate(model, x, y)[1])
            model.set_weights(now)
        return accuracies(model, x)

    options = {"optimizer": keras.optimizers.Adam(3e-3), "measure": measure, "seed": seed}
    history = training.train(model, x, y, steps=60, batch_size=20, **options)
    return history["batch"], history["at"], recomputed or history["at"]


seeds = range(scale.at_scale(quick=3, full=10))
old = [learnt(seed) for seed in seeds]
negatives = {norm: np.array([tuned(norm, 1 - x, i, old[i]) for i in seeds]) for norm in NORMS}
fresh = {norm: np.array([tuned(norm, x, seed) for seed in seeds]) for norm in (0.99, 0.9)}

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained", sharey=True)
LINES = [("training mode", 0.99, 0, "C4--"), ("inference, ρ 0.99", 0.99, 1, "C1X-")]
LINES += [("inference, ρ 0.9", 0.9, 1, "C0o-"), ("inference, recomputed", 0.99, 2, "C2:")]
for ax, runs, title in zip(axes, (negatives, fresh), ("Negatives, tuned", "New"), strict=True):
    for name, norm, k, style in LINES:
        steps, values = range(0, 61, 10), runs[norm][:, k]
        ax.plot(steps, values.mean(0), style, label=name)
        ax.fill_between(steps, values.min(0), values.max(0), color=style[:2], alpha=0.2)
    ax.set(title=title, xlabel="step", ylim=(0, 1.02))
fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# The new network loses more than 5 points at step 10 and none at 60: mean 0 and variance 1 are not
# so far from its statistics. Freezing keeps the old statistics, and the negatives are then learned
# slowly: recompute first, then freeze. To check your own model, evaluate the training images, or
# call ``bnref.doctor.examine(model, data, only=["few_steps"])``. The fix, after training and
# without labels, is ``bnref.population.recompute(model, batches)``; or ``momentum=0.9``; or, for
# new layers, :class:`bnref.layers.DebiasedBatchNorm`, without its start.
#
# In `keras-team/keras#7177 <https://github.com/keras-team/keras/issues/7177>`_ it is traced to 5
# steps at a momentum of 0.99; `tensorflow/tensorflow#46414
# <https://github.com/tensorflow/tensorflow/issues/46414>`_ has 40 images, 4 steps an epoch, and an
# accuracy of 0.5 when the training images are the validation.
#
# Conclusion
# ----------

batch, inference, recomputed = negatives[0.99][..., 3].T
right, frozen = negatives[0.9][:, 1], negatives["frozen"][:, 1]
print("negatives after 30 steps, by batch, at inference, recomputed:", batch, inference, recomputed)
print("at inference after 30 and 60 steps, ρ = 0.9:", *right[:, [3, 6]], "frozen:", frozen[:, 6])
assert round(0.99**30, 2) == 0.74 and 0.99**299 < 0.05
assert batch.min() > 0.85 and (batch - inference).mean() > 0.3 and (inference < batch).all()
assert (recomputed > batch - 0.03).all() and (right[:, 3] > inference + 0.1).all()
assert (frozen[:, 6] < right[:, 6] - 0.15).all()
lost = (fresh[0.99][:, 0] - fresh[0.99][:, 1]).mean(0)
print("new network, points lost at inference at steps 10 and 60:", *100 * lost[[1, 6]].round(3))
assert lost[1] > 0.05 and abs(lost[6]) < 0.03

model = network(NORMS[0.99])
model.set_weights(old[0])
adam = keras.optimizers.Adam(3e-3)
model.compile(adam, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
training.train(model, 1 - x, y, steps=30, batch_size=20, optimizer=adam, seed=0)


def found():
    report = doctor.examine(model, (1 - x, y), batch_size=20, only=["few_steps"])
    return [finding.evidence for finding in report.findings]


evidence = found()
print("the doctor, of the tuned model:", *evidence)
assert evidence, "the check fires after 30 steps"
population.recompute(model, np.split(1 - x, 5))
assert not found(), "and is silent once the statistics are recomputed"
