"""
Is alpha = 0.9 in Lasagne the same as momentum = 0.9 in TensorFlow?
===================================================================

No: alpha = 0.9 is momentum = 0.1. Lasagne's ``alpha`` is the weight of the new batch, TensorFlow's
``momentum`` that of the old value. (Lasagne's default, alpha = 0.1, is momentum = 0.9.) Copied as
it stands, 0.9 keeps :claim:`35 % <start_left>` of the start value after ten batches, where Lasagne
keeps less than a billionth. Five batches after the mean of the inputs has risen by 5, the copied
average is :claim:`2.9 <behind>` behind that of Lasagne. There is more: Lasagne averages 1/√(σ² + ε)
and not σ² (:doc:`what that does </gallery/variants/plot_averaging_one_over_sigma>`), and its ε is
1e-4, not 1e-3. :func:`bnref.conventions.port` converts all of it.

.. symptom:: numbers differ from PyTorch
   :doctor: momentum_of_another_framework
   :cause: momentum copied as it stands: PyTorch and Lasagne weigh the new value, Keras the old
   :check: ``layer.momentum`` and PyTorch's ``momentum``, or Lasagne's ``alpha``, do not add up to 1

.. symptom:: validation jumps
   :doctor: momentum_of_another_framework
   :check: ``[norm.path for norm in bnref.norms.find(model) if norm.momentum < 0.5]`` is not empty
"""

# %%
# Check
# -----
# The check finds a momentum below 0.5, so it finds Lasagne's default of 0.1 if that was copied. It
# does not find a copied 0.9, which is a usual momentum in Keras. To check a port, feed both
# networks one batch at inference: a wrong ε shows where variances are small. A wrong momentum shows
# only in training.

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from bnref import conventions, doctor, tf1
from bnref_gallery import scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Take 1 − alpha, and Lasagne's ε; the same for Keras's layers. ``tf.nn.batch_normalization`` has no
# alpha, since it has no average: there you write Lasagne's rule yourself, as it stands. Its updates
# need :doc:`the train op </gallery/questions/plot_alpha_and_momentum_update_ops>` too.
#
# Wrong, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def copied(x, training, alpha=0.9):
    return batch_normalization(x, training=training, momentum=alpha)


# %%
# Right, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def converted(x, training, alpha=0.9):
    return batch_normalization(x, training=training, momentum=1 - alpha, epsilon=1e-4)


# %%
# Wrong, tf.nn.batch_normalization
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def by_every_batch(x, training, alpha=0.9):
    mean, variance = tf.nn.moments(x, [0])
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-4)


# %%
# Right, tf.nn.batch_normalization
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def by_averages(x, training, alpha=0.9):
    mean, variance = tf.nn.moments(x, [0])
    zeros, ones = [0.0] * x.shape[1], [1.0] * x.shape[1]
    moving_mean = v1.get_variable("mean", initializer=zeros, trainable=False)
    moving_variance = v1.get_variable("variance", initializer=ones, trainable=False)
    for moving, batch in ((moving_mean, mean), (moving_variance, variance)):
        v1.add_to_collection("update_ops", v1.assign_sub(moving, alpha * (moving - batch)))
    if not training:
        mean, variance = moving_mean, moving_variance
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-4)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how). Lasagne's rule and TensorFlow's are
#
# .. math:: P \leftarrow (1 - \alpha) P + \alpha B \qquad \text{and} \qquad
#    P \leftarrow \rho P + (1 - \rho) B.
#
# The post "momentum and renorm_momentum" of 2018 ports a Lasagne network, and its only answer
# leaves this out. It also asks :doc:`what renorm_momentum is
# </gallery/questions/plot_alpha_and_momentum_of_renorm>` and :doc:`what UPDATE_OPS are for
# </gallery/questions/plot_alpha_and_momentum_update_ops>`. First it asks which function to take:
#
# =================================  ==============================  =================
# Function                           Normalizes by                   γ, β and averages
# =================================  ==============================  =================
# ``tf.nn.batch_normalization``      the numbers that you give it    you write them
# ``tf.layers.batch_normalization``  the batch's, or their averages  it makes them
# =================================  ==============================  =================
#
# The first is one line of the second. PyTorch's momentum has the trap of alpha, too. `transformers
# changed its TensorFlow models in 2022 <https://github.com/huggingface/transformers/pull/19454>`__,
# `torchvision MaxViT in 2024 <https://github.com/pytorch/vision/issues/8250>`__; `pix2pix
# <https://github.com/affinelayer/pix2pix-tensorflow/issues/126>`__ has Torch's 0.1 in TensorFlow.
#
# Experiment
# ----------
# The mean of the batches changes from 0 to 5 half way, and their standard deviation is 2. The real
# ``tf.layers.batch_normalization``, as TensorFlow 2.21 still has it, is beside Lasagne's rule.

v1 = tf.compat.v1
warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")
SEEDS = range(scale.at_scale(quick=3, full=10))


def batches(seed):
    means = np.repeat([0.0, 5.0], 10)[:, None, None]
    return np.random.default_rng(seed).normal(means, 2, (20, 64, 1)).astype("f4")


def averages(norm, seed, start=0.0):
    """The moving mean and variance after each batch; the mean begins at ``start``."""
    found = []
    with tf1.tensorflow_1(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 1))
        norm(x, True)
        mean, variance = v1.global_variables()[-2:]
        session.run(v1.global_variables_initializer())
        session.run(v1.assign(mean, [start]))
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        for batch in batches(seed):
            session.run(updates, {x: batch})
            found.append(session.run([mean, variance]))
    return np.squeeze(found)


# %%


def lasagne(seed, alpha=0.9, epsilon=1e-4, start=0.0):
    """Lasagne's mean and inv_std after each batch, as its source has it."""
    mean, inv_std, found = start, 1.0, []
    for batch in batches(seed):
        mean = (1 - alpha) * mean + alpha * float(batch.mean())
        inv_std = (1 - alpha) * inv_std + alpha / np.sqrt(batch.var() + epsilon)
        found.append((mean, inv_std))
    return np.array(found)


source = np.array([lasagne(seed) for seed in SEEDS])
arms = {}  # each of shape (seeds, batches, 2)
for norm in (copied, converted, by_averages):
    arms[norm] = np.array([averages(norm, seed) for seed in SEEDS])

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
steps = np.arange(1, 21)
ax.plot(steps, [batch.mean() for batch in batches(0)], "C4x", label="mean of the batch")
ax.plot(steps, source[0, :, 0], "C2", lw=5, alpha=0.4, label="Lasagne, alpha = 0.9")
ax.plot(steps, arms[converted][0, :, 0], "C0o-", ms=4, label="tf.layers, momentum = 0.1")
ax.plot(steps, arms[copied][0, :, 0], "C1o-", ms=4, label="tf.layers, momentum = 0.9")
ax.set(title="Copied, it lags", xlabel="batch", ylabel="moving mean", xticks=range(0, 21, 5))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What else differs: the names, the defaults, and what is remembered.

print("library | weighs the | default | epsilon | remembers | Bessel's correction")
for name, rule in conventions.CONVENTIONS.items():
    numbers = f"{rule.momentum} | {rule.epsilon:.0e}"
    print(name, rule.momentum_weighs, numbers, rule.stores, rule.bessel, sep=" | ")

# %%
# Proof
# -----
# What the copied average keeps and lacks, and what the converted ones have.

left = [(averages(copied, k, 100.0) - averages(copied, k))[9, 0] / 100 for k in SEEDS]
claim("start_left", left, "share of the start value that 0.9 keeps", above=0.34, below=0.36)
left = [(lasagne(k, start=100.0) - lasagne(k))[9, 0] / 100 for k in SEEDS]
assert np.allclose(left, 1e-10, rtol=0.1, atol=0), "Lasagne's alpha of 0.9 keeps 10⁻⁸ %"
behind = (source - arms[copied])[:, 14, 0]
claim("behind", behind, "how far the copied mean is behind", above=2)
for norm in (converted, by_averages):
    mean, variance = np.moveaxis(arms[norm], -1, 0)
    assert np.allclose(mean, source[..., 0], atol=1e-5), "converted: Lasagne's mean"
    assert np.allclose(variance[:, -1], source[:, -1, 1] ** -2, rtol=0.2), "and about its variance"
for alpha in (0.9, 0.1):
    momentum = conventions.convert_momentum(alpha, source="lasagne", target="keras")
    assert np.isclose(momentum, 1 - alpha), "alpha is 1 − momentum"
ours, theirs = conventions.CONVENTIONS["tf_keras"], conventions.CONVENTIONS["lasagne"]
assert (theirs.momentum, theirs.epsilon) == (0.1, 1e-4), "Lasagne's defaults"
assert (ours.momentum, ours.epsilon) == (0.99, 1e-3), "those of tf.layers"

# %%
# What the two functions make, and what they give of one example; and the doctor.


def made(norm):
    """How many variables and update operations."""
    with tf1.tensorflow_1():
        norm(v1.placeholder(tf.float32, (None, 1)), True)
        return len(v1.global_variables()), len(v1.get_collection(v1.GraphKeys.UPDATE_OPS))


assert made(converted) == (4, 2), "tf.layers makes γ, β, two averages and their updates"
assert made(by_every_batch) == (0, 0), "tf.nn makes nothing"
assert not by_every_batch(tf.constant([[3.0]]), False), "so an example alone is 0"
assert made(by_averages) == (2, 2), "two averages of your own have two updates"


def found(momentum):
    norm = keras.layers.BatchNormalization(momentum=momentum)
    model = keras.Sequential([keras.Input((1,)), norm])
    report = doctor.examine(model, list(batches(0)), only=["momentum_of_another_framework"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of Lasagne's default copied:", *found(0.1))
assert found(0.1), "the check fires on alpha = 0.1 copied"
assert not found(1 - 0.1), "and is silent on alpha converted"
