"""
How should a single example be normalized at inference?
=======================================================

By the population, as batch norm does, if the test data are like the training data: giving the
example a weight α = 0.1 in its own statistics changes **less than two points** of accuracy there,
and α = 0.5 costs about five. On dimmed images α = 0.5 wins **some forty points**, on noisy ones 15
and more. A batch of one that normalizes itself is never the best, and after a dense layer it says
nothing at all.

Question 3, *used when*: in training an example is 1/N of the batch that normalizes it, at inference
it is no part of the population. Inference example weighing (Summers & Dinneen 2020, arXiv
1906.03548, section 3.1) gives it the weight α back. It looks at no other example.

.. symptom:: test accuracy near chance
   :doctor: validation_of_another_kind
   :check: compare mean and variance of test and training inputs
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale

# %%
# Train, then choose α
# --------------------
# :class:`bnref.layers.ExampleWeighingBatchNorm` trains as batch norm does; α is set afterwards,
# here to a range of values, for three sets of test images.

data = datasets.load("mnist").take(train=3000, test=600)


def dimmed(x, contrast=0.4, light=0.2):
    """Less contrast, more light: another mean and variance in every channel."""
    return np.float32(light + contrast * x)


def noisy(x):
    return np.float32(x + np.random.default_rng(0).normal(0, 0.3, x.shape))


SETS = {"as in training": data.x_test, "dimmed": dimmed(data.x_test), "noisy": noisy(data.x_test)}
ALPHAS = [0, 0.03, 0.1, 0.3, 0.5, 0.7, 0.99]
NORM = partial(bnref.ExampleWeighingBatchNorm, example_weight=0, momentum=0.9)


def trained(seed):
    keras.utils.set_random_seed(seed)
    model = models.three_convolutions(NORM, image_shape=(28, 28, 1), filters=(8, 16, 32))
    rate = keras.optimizers.schedules.CosineDecay(0.005, 150)
    history = training.train(
        model, data.x_train, data.y_train, steps=150, batch_size=64, seed=seed, every=30,
        optimizer=keras.optimizers.Adam(rate),
        measure=lambda run: {"accuracy": run.evaluate(data.x_test, data.y_test)[1]},
    )  # fmt: skip
    return model, history


def accuracies(model):
    """For each set of test images and each α."""
    rows = []
    for x in SETS.values():
        rows.append([])
        for alpha in ALPHAS:
            for layer in model.layers:
                if isinstance(layer, bnref.ExampleWeighingBatchNorm):
                    layer.example_weight = alpha
            rows[-1].append(training.evaluate(model, x, data.y_test)[1])
    return rows


runs = [trained(seed) for seed in range(scale.at_scale(quick=3, full=10))]
scores = np.array([accuracies(model) for model, _ in runs])
fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained", sharey=True)
for _, history in runs:
    left.plot(history["step"], history["accuracy"], "C0", lw=1)
left.set(xlabel="training step", title="Test accuracy, α = 0", ylim=(0, 1))
for index, name in enumerate(SETS):
    right.plot(ALPHAS, scores[:, index].T, f"C{index}", lw=0.8, alpha=0.6)
    right.plot(ALPHAS, scores[:, index].mean(0), f"C{index}o-", ms=4, label=name)
right.set(xlabel="α, the example's weight", title="At inference")
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Its own statistics alone
# ------------------------
# With α near 1 the positions of one image normalize themselves, as in instance normalization: what
# :class:`bnref.layers.UntrackedBatchNorm` does with a batch of one. After a dense layer there is
# one position: the example is its own mean, and every example comes out as β.

alone = bnref.UntrackedBatchNorm()
outputs = np.concatenate([alone(np.float32([[value, -value]])) for value in (1, 20)])
print("a dense layer's outputs (1, -1) and (20, -20), each alone:", outputs.tolist())

# %%
# Verdict
# -------
# It is a parameter of the test data. Choose α on validation data like those you will meet: without
# a shift there is nothing to win here, and beyond 0.3 something to lose. Whether there is a shift:
# ``bnref.doctor.examine(model, data, test, only=["validation_of_another_kind"])``. The layer is no
# fixed line any more, so it cannot be folded into a convolution
# (:doc:`plot_folding_into_the_convolution`). If examples of the new kind come in numbers, recompute
# the population on them: :func:`bnref.population.recompute`.
#
# Conclusion
# ----------

best = {}
for name, rows in zip(SETS, scores.swapaxes(0, 1), strict=True):
    change = 100 * (rows - rows[:, :1]).mean(0)
    best[name] = dict(zip(ALPHAS, change, strict=True))
    print(f"{name:15} points won at α =", {k: round(float(v), 1) for k, v in best[name].items()})
usual = best["as in training"]
assert abs(usual[0.1]) < 2 and -12 < usual[0.5] < -1 and usual[0.99] < -20
assert best["dimmed"][0.5] > 20 and best["noisy"][0.5] > 5
for name in SETS:
    assert best[name][0.99] < max(best[name].values()) - 3, "alone it is never the best"
assert not outputs.any(), "β, whatever came in"


def found(images):
    only = ["validation_of_another_kind"]
    report = doctor.examine(runs[0][0], data.x_train[:64], images[:64], only=only)
    return [finding.evidence for finding in report.findings]


wrong, right = found(SETS["dimmed"]), found(SETS["as in training"])
print("the doctor, of dimmed images:", *wrong)
assert wrong, "the check fires on dimmed images"
assert not right, "and is silent on such as in training"
