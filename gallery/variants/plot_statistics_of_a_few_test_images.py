"""
A few unlabelled test images mend a model whose data have shifted
=================================================================

Trained on digits, tested on digits with less than half of the contrast on a grey ground, a network
has a test accuracy of :claim:`15 % <source>`. With the statistics of 8 such images, without labels,
and the weights as they are, it has :claim:`80 % <eight>`; with those of 128 images
:claim:`83 % <many>`. Even one image gives :claim:`72 % <one>`, as a convolution has some hundred
values of it. Mixed half and half with the old statistics, 8 images give :claim:`27 % <mixed>`.

.. symptom:: validation far worse than training
   :cause: the test images come from another camera, or under other light
   :check: recompute the statistics on some unlabelled test images: is it much better?
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# Compare the accuracy, or where there are no labels the mean of the largest probability, before and
# after ``bnref.population.recompute(model, [test_images])`` on a copy of the model. On images like
# the training images nothing should change.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Take the statistics of the test images for part of the population. ``weight`` says how many
# test images the old statistics are worth; 0 takes the new ones alone.
#
# Wrong
# ^^^^^


def unchanged(model, images, weight):
    pass


# %%
# Right
# ^^^^^


def adapted(model, images, weight):
    statistics = model.non_trainable_variables
    old = [each.numpy() for each in statistics]
    population.recompute(model, [images])
    for variable, source in zip(statistics, old, strict=True):
        target = variable.numpy()
        mixed = (weight * source + len(images) * target) / (weight + len(images))
        variable.assign(mixed)


# %%
# Why
# ---
# Question 1 (whose statistics) is answered by the training images, then by the test images. Less
# contrast and more light change mean and variance of each channel, and a norm with statistics of
# the same images takes that out again. With n images and N for the weight of the old ones,
#
# .. math:: \mu = \frac{N \mu_s + n \mu_t}{N + n}, \qquad
#           \sigma^2 = \frac{N \sigma_s^2 + n \sigma_t^2}{N + n}
#
# (Schneider et al. 2020, `arXiv 2006.16971 <https://arxiv.org/abs/2006.16971>`_, section 3; Nado et
# al. 2020, `arXiv 2006.10963 <https://arxiv.org/abs/2006.10963>`_, take N = 0). Tent trains γ and β
# on top, by the entropy of the predictions (Wang et al. 2021, `arXiv 2006.10726
# <https://arxiv.org/abs/2006.10726>`_, section 3); the last arm below does so.
#
# A mixture is meant for few images that are like the old ones. Where the variances differ much, the
# larger one rules it. Here the contrast is 0.4, and the variance of the pixels 0.4² = 0.16 of the
# old one; mixed half and half it is (1 + 0.16)/2 = 0.58 of it.
#
# It needs test images that come together, and of all classes: the statistics of images of one class
# take out what tells the class. It is no cure for a shift that changes what is to be seen.
#
# Experiment
# ----------
# A small convolutional network, on digits of half the width and height.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
random = np.random.default_rng(0)
noise = 0.02 * random.standard_normal(x_test.shape)
x_shifted = (0.4 + 0.4 * x_test + noise).astype("float32")
SIZES, DRAWS = (1, 2, 8, 32, 128), 4
network = partial(
    models.three_convolutions, partial(bnref.BatchNorm, momentum=0.9),
    image_shape=(14, 14, 1), filters=(8, 16, 32),
)  # fmt: skip
model = network()
run = training.Run(model, keras.optimizers.Adam(0.01))
ARMS = {"old statistics": (unchanged, 0), "new": (adapted, 0), "mixed, N = 8": (adapted, 8)}


def accuracy(images):
    return run.evaluate(images, data.y_test)[1]


# %%
# Tent: some steps along the gradient of the entropy, of γ and β alone.

scales = [each for each in model.trainable_variables if each.name in ("gamma", "beta")]
tent_optimizer = keras.optimizers.Adam(0.01)
tent_optimizer.build(scales)


@tf.function
def lower_entropy(images):
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        probabilities = tf.nn.softmax(logits)
        entropy = -tf.reduce_sum(probabilities * tf.nn.log_softmax(logits), axis=-1)
        loss = tf.reduce_mean(entropy)
    gradients = tape.gradient(loss, [each.value for each in scales])
    tent_optimizer.apply(gradients, scales)


def with_tent(images):
    adapted(model, images, 0)
    for _ in range(10):
        lower_entropy(images)
    return accuracy(x_shifted)


# %%


def accuracies(seed):
    """Test accuracy by arm and number of images; that of Tent; that on images as in training."""
    restart(model, run.optimizer, network, seed=seed)
    run.train(x_train, data.y_train, steps=200, batch_size=64, seed=seed)
    weights, rows = model.get_weights(), []
    for adapt, weight in ARMS.values():
        row = []
        for size in SIZES:
            tested = []
            for draw in range(DRAWS if adapt is adapted else 1):
                chosen = x_shifted[draw * 128 : draw * 128 + size]
                adapt(model, chosen, weight)
                tested.append(accuracy(x_shifted))
                model.set_weights(weights)
            row.append(np.mean(tested))
        rows.append(row)
    tent = with_tent(x_shifted[:128])
    model.set_weights(weights)
    at_home = [accuracy(x_test)]
    adapted(model, x_test[:128], 0)
    at_home.append(accuracy(x_test))
    return np.array(rows), tent, at_home


results = [accuracies(seed) for seed in range(scale.at_scale(quick=3, full=10))]
arms = np.array([rows for rows, _, _ in results])
tent = np.array([each for _, each, _ in results])
at_home = np.array([each for _, _, each in results])

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for k, (name, style) in enumerate(zip(ARMS, ("C1X:", "C0o-", "C2s--"), strict=True)):
    ax.semilogx(SIZES, arms[:, k].mean(0), style, base=2, label=name)
    ax.fill_between(SIZES, arms[:, k].min(0), arms[:, k].max(0), color=style[:2], alpha=0.2)
ax.plot(np.full(len(tent), 140), tent, "C3^", label="new, and Tent")
ax.set(title="Less contrast, more light", xlabel="unlabelled test images", ylabel="test accuracy")
ax.set(ylim=(0, 1), xticks=SIZES, xticklabels=SIZES)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Accuracies by the number of images.

for k, name in enumerate(ARMS):
    print(f"{name:15} by 1, 2, 8, 32, 128 images:", *arms[:, k].mean(0).round(3))
print("Tent:", *tent.round(3), "  at home, before and after:", *at_home.mean(0).round(3))
source, new, mixed = arms[:, 0], arms[:, 1], arms[:, 2]
claim("source", source[:, 0], "test accuracy, old statistics", below=0.6)
claim("eight", new[:, 2], "with statistics of 8 images", above=0.45)
claim("many", new[:, 4], "with statistics of 128 images", above=0.6)
claim("one", new[:, 0], "with statistics of one image", above=0.3, of="mean")
claim("mixed", mixed[:, 2], "8 images, mixed half and half with the old", below=0.7, of="mean")
claim("tent", tent - new[:, 4], "won by ten steps of Tent on 128 images", above=-0.05, of="mean")
assert (new[:, 2] > source[:, 0] + 0.15).all(), "8 images help, with every seed"
assert (new[:, 2] > mixed[:, 2]).all(), "and more than mixed with the old ones"
lost = at_home[:, 0] - at_home[:, 1]
claim("at_home", lost, "lost by new statistics on images like the training's", below=0.05)
