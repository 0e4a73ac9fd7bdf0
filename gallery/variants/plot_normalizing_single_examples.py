"""
How should a single example be normalized at inference?
=======================================================

By the population, as batch norm does, where the test data are like the training data. On dimmed
test images the accuracy of a network falls from :claim:`92 % <usual>` to :claim:`12 % <dimmed>`.
Eight images of the new kind mend that: with the population recomputed on them, without labels, it
is :claim:`90 % <dimmed_eight>`. If there is only one image, give it the weight α = 0.5 in its own
statistics; then it is :claim:`61 to 80 % <dimmed_half>`. Where nothing has changed, both cost
accuracy: :claim:`1.4 points <usual_eight>` and :claim:`4.6 points <usual_half>`.

.. symptom:: test accuracy near chance
   :doctor: validation_of_another_kind
   :check: compare mean and variance of test and training inputs
"""

# %%
# Check
# -----
# Give it test data too, ``doctor.examine(model, train, test, only=[…])``: it compares the moments.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Scale the new images as those of the training were, if you can. If not, recompute the population
# on a few of them. One by one, :class:`bnref.layers.ExampleWeighingBatchNorm` serves: it takes the
# weights of batch norm. Choose α on validation data of the kind to come.
#
# Wrong
# ^^^^^


def predict_wrong(model, x, few_new):
    return model(x, training=False)


# %%
# Right
# ^^^^^


def predict_right(model, x, few_new):
    population.recompute(model, [few_new])
    return model(x, training=False)


# %%
# Wrong, one by one
# ^^^^^^^^^^^^^^^^^


def norm_wrong():
    return bnref.BatchNorm(momentum=0.9)


# %%
# Right, one by one
# ^^^^^^^^^^^^^^^^^


def norm_right():
    norm = bnref.ExampleWeighingBatchNorm
    return norm(momentum=0.9, example_weight=0.5)


# %%
# Why
# ---
# It goes wrong at question 3 (used when): the population of the training data is used for data that
# have another. In training an example is 1/N of the batch that normalizes it; at inference it is no
# part of the population. Inference example weighing (Summers & Dinneen 2020, arXiv 1906.03548,
# section 3.1) gives it the weight α back, with x̄ the mean over the positions of the example:
#
# .. math:: \mu = \alpha\,\bar x + (1-\alpha)\,\mu_P, \qquad
#           \sigma^2 = \alpha\,\overline{x^2} + (1-\alpha)(\sigma_P^2 + \mu_P^2) - \mu^2 .
#
# It looks at no other example. With α near 1 the positions of one image normalize themselves, as in
# a batch of one in training mode: what tells images apart by mean and contrast is lost. After a
# dense layer there is one position, and every example comes out as β. The layer is no fixed line
# any more, so it cannot be folded into a convolution (:doc:`plot_folding_into_the_convolution`).
#
# Experiment
# ----------
# Three sets of test images. The network is trained once for each seed; α is set afterwards.


def dimmed(x, contrast=0.4, light=0.2):
    """Less contrast, more light: another mean and variance in every channel."""
    return np.float32(light + contrast * x)


def noisy(x):
    return np.float32(x + np.random.default_rng(0).normal(0, 0.3, x.shape))


data = datasets.load("mnist").take(train=3032, test=1000)
x_train, x_test = (
    data.x_train[:3000, 4:24, 4:24],
    data.x_test[:, 4:24, 4:24],
)  # without their margins
y_train, new = data.y_train[:3000], data.x_train[3000:, 4:24, 4:24]
KINDS = {"as in training": np.float32, "dimmed": dimmed, "noisy": noisy}
ALPHAS = [0, 0.03, 0.1, 0.3, 0.5, 0.7, 0.99]
network = partial(models.three_convolutions, image_shape=(20, 20, 1), filters=(8, 16, 32))


def accuracy(logits):
    return np.mean(np.argmax(logits, -1) == data.y_test)


def weigh(model, alpha):
    for layer in model.layers:
        if isinstance(layer, bnref.ExampleWeighingBatchNorm):
            layer.example_weight = alpha


# %%
# For each kind of test images: accuracies by α, and, with α = 0, by a population of 8 of them.


def accuracies(model):
    by_alpha, by_eight, weights = [], [], model.get_weights()
    for kind in KINDS.values():
        by_alpha.append([])
        for alpha in ALPHAS:
            weigh(model, alpha)
            by_alpha[-1].append(accuracy(predict_wrong(model, kind(x_test), None)))
        weigh(model, 0)
        by_eight.append([])
        for few in np.split(kind(new), 4):
            by_eight[-1].append(accuracy(predict_right(model, kind(x_test), few)))
            model.set_weights(weights)
    return by_alpha, by_eight


# %%
# One network, which begins anew for each seed.


def trained(seeds):
    """The network of the last seed, and the accuracies of all."""
    model, scores, shares = network(norm_right), [], []
    run = training.Run(
        model, keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.005, 120))
    )
    for seed in seeds:
        restart(model, run.optimizer, partial(network, norm_right), seed=seed)
        run.train(x_train, y_train, steps=120, batch_size=64, seed=seed, every=120)
        by_alpha, by_eight = accuracies(model)
        scores.append(by_alpha)
        shares.append(by_eight)
    return model, np.array(scores), np.array(shares)


model, scores, eight = trained(range(scale.at_scale(quick=3, full=10)))

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
for index, name in enumerate(KINDS):
    ax.plot(ALPHAS, scores[:, index].T, f"C{index}", lw=0.8, alpha=0.6)
    ax.plot(ALPHAS, scores[:, index].mean(0), f"C{index}o-", ms=4, label=name)
    places = np.full(eight[:, index].size, 1.15 + 0.05 * index)
    ax.plot(places, eight[:, index].ravel(), f"C{index}_", ms=9)
ax.set(title="One network, three kinds of test images", ylabel="test accuracy", ylim=(0, 1))
ax.set(xlabel="α, the example's weight at inference")
ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1, 1.2], [0, 0.2, 0.4, 0.6, 0.8, 1, "8 new\nimages"])
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----
# The accuracies by α, and with a population of eight images.

usual, dim, noise = scores.swapaxes(0, 1)  # each: seeds, α
of_eight = dict(zip(KINDS, eight.mean(2).T, strict=True))
for name, rows in zip(KINDS, (usual, dim, noise), strict=True):
    print(f"{name:15} by α {rows.mean(0).round(3)}; of eight {of_eight[name].round(3)}")
    best = rows.mean(0).max()
    assert rows.mean(0)[-1] < best - 0.03, f"{name}: an example alone, α near 1, is never the best"
half, kept = ALPHAS.index(0.5), usual[:, 0]
claim("usual", kept, "accuracy on images as in training", above=0.8)
claim("dimmed", dim[:, 0], "accuracy on dimmed images, by the population", below=0.5)
claim("dimmed_half", dim[:, half], "the same, α = 0.5", above=0.35, of="mean")
claim("dimmed_eight", of_eight["dimmed"], "the same, population of 8 images", above=0.7)
lost = kept - usual[:, half]
claim("usual_half", lost, "accuracy lost by α = 0.5", above=0.01, below=0.12, of="mean")
lost = kept - of_eight["as in training"]
claim("usual_eight", lost, "accuracy lost by a population of 8", above=-0.01, below=0.08, of="mean")

# %%

for name, rows in (("dimmed", dim), ("noisy", noise)):
    won = of_eight[name] - rows.max(1)
    assert won.mean() > 0.05, f"{name}: eight images win over the best α of each seed"
assert abs(np.mean(usual[:, 2] - usual[:, 0])) < 0.02, "α = 0.1 changes little without a shift"
assert np.mean(usual[:, 0] - usual[:, -1]) > 0.2, "α near 1 costs a lot without a shift"
assert np.mean(dim[:, half] - dim[:, 0]) > 0.2, "α = 0.5 wins on dimmed images"
assert np.mean(noise[:, half] - noise[:, 0]) > 0.05, "and on noisy ones"

# %%
# The layers of the fix: with α = 0 the one is the other; after a dense layer one example is β.

plain = network(norm_wrong)
plain.set_weights(model.get_weights())
weigh(model, 0)
assert np.allclose(plain(new), model(new), atol=1e-5), "α = 0 is batch norm"
alone = bnref.UntrackedBatchNorm()
outputs = np.concatenate([alone(np.float32([[value, -value]])) for value in (1, 20)])
print("a dense layer's outputs (1, -1) and (20, -20), each alone:", outputs.tolist())
assert not outputs.any(), "one example after a dense layer comes out as β"


def found(images):
    only = ["validation_of_another_kind"]
    report = doctor.examine(model, x_train[:64], images[:64], only=only)
    return [finding.evidence for finding in report.findings]


print("the doctor, of dimmed images:", *found(dimmed(x_test)))
assert found(dimmed(x_test)), "the check fires on dimmed images"
assert not found(x_test), "and is silent on such as in training"
