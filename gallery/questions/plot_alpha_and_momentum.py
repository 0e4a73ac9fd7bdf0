"""
Is alpha = 0.9 in Lasagne the same as momentum = 0.9 in TensorFlow?
===================================================================

No: alpha = 0.9 is momentum = **0.1**. Lasagne's ``alpha`` is the weight of the **new** batch,
TensorFlow's ``momentum`` that of the **old** value. Copied as it stands, 0.9 still has 35 % of its
start after ten batches, where Lasagne has 10⁻⁸ %. (Lasagne's default, alpha = 0.1, is momentum =
0.9.) There is more: Lasagne averages 1/√(σ² + ε) and not σ², and its epsilon is 1e-4, not 1e-3.
:func:`bnref.conventions.port` converts all of it.

The post "momentum and renorm_momentum" of 2018 ports a Lasagne network and asks three things. This
page answers the first, which its only answer leaves out; the others are :doc:`what renorm_momentum
is </gallery/questions/plot_alpha_and_momentum_of_renorm>` and :doc:`what UPDATE_OPS are for
</gallery/questions/plot_alpha_and_momentum_update_ops>`. Question 2, *remembered how*.

.. symptom:: numbers differ from PyTorch
   :doctor: momentum_of_another_framework
   :cause: momentum copied as it stands: PyTorch and Lasagne weigh the new value, Keras the old
   :check: ``layer.momentum`` and PyTorch's ``momentum``, or Lasagne's ``alpha``, do not add up to 1

.. symptom:: validation jumps
   :doctor: momentum_of_another_framework
   :check: ``[norm.path for norm in bnref.norms.find(model) if norm.momentum < 0.5]`` is not empty
"""

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

import bnref
from bnref import conventions, doctor, tf1

v1 = tf.compat.v1
warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")

# %%
# Batches whose mean changes from 0 to 5 half way, and whose standard deviation is 2; the real
# ``tf.layers.batch_normalization``, as TensorFlow 2.21 still has it, and Lasagne's rule.

random = np.random.default_rng(0)
MEANS = np.repeat([0.0, 5.0], 10)
BATCHES = [random.normal(mean, 2, (64, 1)).astype("f4") for mean in MEANS]


def tf_layers(momentum):
    """The moving mean and variance of tf.layers after each batch."""
    with tf1.tensorflow_1(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 1))
        batch_normalization(x, momentum=momentum, training=True)
        mean, variance = v1.global_variables()[-2:]
        session.run(v1.global_variables_initializer())
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        each = [session.run(updates, {x: batch}) and session.run([mean, variance])
                for batch in BATCHES]  # fmt: skip
    return np.squeeze(each)


def lasagne(alpha, epsilon=1e-4):
    """Lasagne's mean and inv_std after each batch, as its source has it."""
    mean, inv_std, found = 0.0, 1.0, []
    for batch in BATCHES:
        mean = (1 - alpha) * mean + alpha * batch.mean()
        inv_std = (1 - alpha) * inv_std + alpha / np.sqrt(batch.var() + epsilon)
        found.append((mean, inv_std))
    return np.array(found)


source, copied, converted = lasagne(0.9), tf_layers(0.9), tf_layers(0.1)  # wrong, right
fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
steps = np.arange(1, 21)
ax.plot(steps, [batch.mean() for batch in BATCHES], "C4x", label="mean of the batch")
ax.plot(steps, source[:, 0], "C2", lw=5, alpha=0.4, label="Lasagne, alpha = 0.9")
ax.plot(steps, converted[:, 0], "C0o-", ms=4, label="tf.layers, momentum = 0.1")
ax.plot(steps, copied[:, 0], "C1o-", ms=4, label="tf.layers, momentum = 0.9")
ax.set(title="Moving mean", xlabel="batch", xticks=range(0, 21, 5))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What else differs
# -----------------
# All normalize a training batch by its biased variance; what they remember of it differs, and so
# do the names and defaults. "× n/(n − 1)" is Bessel's correction.

print(f"{'':15}{'weighs the':>11}{'default':>9}{'epsilon':>9}  remembers")
for name, rule in conventions.CONVENTIONS.items():
    kept = {"variance": "σ²", "inverse deviation": "1/√(σ² + ε)", "sums": "sums of σ²"}[rule.stores]
    kept += " × n/(n − 1)" if rule.bessel else ""
    print(f"{name:15}{rule.momentum_weighs:>11}{rule.momentum:9}{rule.epsilon:9.0e}  {kept}")

# %%
# The port: weights under Lasagne's names go in, Keras's weights and arguments come out. Inference
# is the same to rounding. In training :class:`bnref.layers.LasagneBatchNorm` averages 1/σ too.

weights = {"gamma": [1.5], "beta": [-0.5], "mean": source[-1, :1], "inv_std": source[-1, 1:]}
ported = conventions.port(weights, source="lasagne", target="keras", momentum=0.9)
layer = bnref.BatchNorm(**ported.arguments)
layer.build((None, 1))
for name, value in ported.weights.items():
    getattr(layer, name).assign(value)
there = 1.5 * (BATCHES[0] - source[-1, 0]) * source[-1, 1] - 0.5
here = np.array(layer(BATCHES[0], training=False))
print(ported.arguments, f"largest difference at inference: {np.abs(here - there).max():.1e}")

# %%
# To check a port, feed both networks one batch at inference and compare layer by layer. A wrong
# epsilon shows where variances are small. A wrong momentum does not show, for it changes only what
# further training does: compare the arguments. A default of 0.1, copied as it stands, is found by
# ``bnref.doctor.examine(model, data, only=["momentum_of_another_framework"])``. `transformers
# changed its TensorFlow models in 2022 <https://github.com/huggingface/transformers/pull/19454>`__,
# `torchvision MaxViT in 2024 <https://github.com/pytorch/vision/issues/8250>`__; `pix2pix
# <https://github.com/affinelayer/pix2pix-tensorflow/issues/126>`__ has Torch's 0.1 in TensorFlow.
#
# Conclusion
# ----------

print(f"after ten batches the start still has 0.9¹⁰ = {0.9**10:.0%}, with alpha = 0.9 0.1¹⁰")
assert np.allclose(converted[:, 0], source[:, 0], atol=1e-5)
assert np.abs(copied[14, 0] - source[14, 0]) > 2, "five batches after the change it is far behind"
assert np.allclose(0.9**10, 0.35, atol=0.005) and np.isclose(0.1**10, 1e-8 / 100)
assert np.allclose(converted[-1, 1], source[-1, 1] ** -2, rtol=0.2)
for alpha, momentum in ((0.9, 0.1), (0.1, 0.9)):
    assert conventions.convert_momentum(alpha, source="lasagne", target="keras") == momentum
defaults = conventions.CONVENTIONS["lasagne"], conventions.CONVENTIONS["tf_keras"]
assert [(each.momentum, each.epsilon) for each in defaults] == [(0.1, 1e-4), (0.99, 1e-3)]
assert ported.arguments == {"momentum": 0.1, "epsilon": 1e-4}
assert np.abs(here - there).max() < 1e-4


def found(momentum):
    norm = keras.layers.BatchNormalization(momentum=momentum)
    model = keras.Sequential([keras.Input((1,)), norm])
    report = doctor.examine(model, BATCHES, only=["momentum_of_another_framework"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of Lasagne's default copied:", *found(0.1))
assert found(0.1), "the check fires on alpha = 0.1 copied"
translated = conventions.convert_momentum(0.1, source="lasagne", target="keras")
assert not found(translated), "and is silent on alpha converted"
