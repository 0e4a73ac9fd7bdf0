"""
The loss stops at 0.5 while the accuracy grows: batch norm on the logits
========================================================================

With batch norm the loss in the post "with and without" stays near **0.5**, several times that of
the plain network, though the accuracy is high. The cause is the last layer: batch norm on the
logits holds every logit near −1/3 or 3 until γ has grown, and no network is sure of anything with
such logits. A second fault, the sigmoid loss, hides in the same number; a third keeps the script
from starting.

Question 1, *whose statistics*, is answered in the wrong place: a logit must be free to grow, and
it must not depend on which other images are in the batch.

.. symptom:: no better than without batch norm
   :doctor: norm_on_logits
   :check: is the last layer before the loss a batch norm?
"""

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale

data = datasets.load("mnist").take(train=4000, test=500)


def sigmoid_loss(y, logits):
    """The post's loss: ten yes-or-no questions, averaged."""
    labels = tf.one_hot(y, 10)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), -1)


def softmax_loss(y, logits):
    """One question with ten answers."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


# %%
# How small can the loss become?
# ------------------------------
# In a batch with as many images of each digit, the logit of a digit is the same for the tenth of
# the images that show it and the same for the others, if the network is perfect. Normalized to mean
# 0 and variance 1, a tenth at a and nine tenths at b means a = 3 and b = −1/3. That is the best
# that γ = 1 and β = 0 allow.

perfect = tf.where(tf.one_hot(tf.range(10), 10) == 1, 3.0, -1 / 3)
least_sigmoid = float(tf.reduce_mean(sigmoid_loss(tf.range(10), perfect)))
least_softmax = float(tf.reduce_mean(softmax_loss(tf.range(10), perfect)))
print(f"least loss of a perfect network: sigmoid {least_sigmoid:.3f}, softmax {least_softmax:.3f}")

# %%
# The same network with and without norm on the logits, by both losses, from several starts. The
# losses are those of the training batches, so nothing here depends on what is remembered.


def network(norm_on_logits):
    options = {"filters": (8, 16), "units": 64, "norm_on_logits": norm_on_logits}
    return models.two_convolutions(lambda: bnref.BatchNorm(momentum=0.9), **options)


def trained(seed, loss, norm_on_logits):
    keras.utils.set_random_seed(seed)
    model = network(norm_on_logits)
    adam = keras.optimizers.Adam(0.002)
    options = {"steps": 120, "batch_size": 64, "optimizer": adam, "every": 5}
    history = training.train(model, data.x_train, data.y_train, loss=loss, seed=seed, **options)
    logits = model(data.x_test, training=False)
    return history["loss"], np.mean(np.argmax(logits, -1) == data.y_test), logits


arms = {
    "sigmoid, norm on the logits (as posted)": (sigmoid_loss, True),
    "sigmoid": (sigmoid_loss, False),
    "softmax, norm on the logits": (softmax_loss, True),
    "softmax (repaired)": (softmax_loss, False),
}
seeds = range(scale.at_scale(quick=3, full=10))
runs = {name: [trained(seed, *arm) for seed in seeds] for name, arm in arms.items()}
losses = {name: np.array([loss for loss, _, _ in run]) for name, run in runs.items()}
accuracies = {name: np.array([share for _, share, _ in run]) for name, run in runs.items()}

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
bounds = {"sigmoid": least_sigmoid, "softmax": least_softmax}
for ax, (title, least) in zip(axes, bounds.items(), strict=True):
    for colour, name in zip(("C1", "C0"), [name for name in arms if title in name], strict=True):
        label = "norm on the logits" if "norm" in name else "no norm on the logits"
        ax.plot(np.arange(0, 121, 5), losses[name].T, color=colour, lw=1, alpha=0.8)
        ax.plot([], color=colour, label=label)
    ax.axhline(least, color="#555555", ls=":", label="least possible at γ = 1")
    ax.set(xlabel="training step", title=f"Training loss, {title}", ylim=0)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# The sigmoid loss and the option
# -------------------------------
# Ten sigmoids are not a distribution over ten digits: for one image they need not add up to 1. And
# the script never gets as far: ``type=str`` with ``default=True`` leaves the default a bool, which
# equals neither ``"True"`` nor ``"False"``, so without the option it always raises.

sums = np.array([tf.reduce_sum(tf.sigmoid(logits), -1) for *_, logits in runs["sigmoid"]])
print(f"ten sigmoids of one image add up to {sums.min():.2f} to {sums.max():.2f}")

parser = argparse.ArgumentParser()
parser.add_argument("--is_bn", default=True, type=str)  # wrong
parser.add_argument("--batch-norm", default=True, action=argparse.BooleanOptionalAction)  # right
options = parser.parse_args([])
print(
    "wrong:", repr(options.is_bn), options.is_bn in ("True", "False"), " right:", options.batch_norm
)

# %%
# To check your own model, look at its last layer, or call
# ``bnref.doctor.examine(model, data, only=["norm_on_logits"])``.
#
# Conclusion
# ----------

final = {name: loss[:, -3:].mean() for name, loss in losses.items()}
for name in arms:
    print(f"{name:40} loss {final[name]:.3f}  test accuracy {accuracies[name].round(3)}")
posted, sigmoid, normed, repaired = final.values()
assert abs(posted - least_sigmoid) < 0.1 and sigmoid < 0.15, "held at the bound, and free of it"
assert normed > repaired
assert sums.max() - sums.min() > 0.5, "sigmoids are no distribution"
assert options.is_bn not in ("True", "False") and options.batch_norm is True


def found(norm_on_logits):
    some = data.x_test[:64], data.y_test[:64]
    report = doctor.examine(network(norm_on_logits), some, only=["norm_on_logits"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of the norm on the logits:", *found(True))
assert found(True), "the check fires on the wrong model"
assert not found(False), "and is silent on the right one"
