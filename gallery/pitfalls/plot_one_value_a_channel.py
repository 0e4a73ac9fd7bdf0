"""
One value a channel: nothing is learnt, and one last batch of one makes NaN
===========================================================================

A batch of one example is its own mean, so the layer puts out β whatever comes in, and no gradient
passes. After 200 steps with one example each a network has a test accuracy of
:claim:`10 % <size_1>`, which is chance. With batches of two it reaches :claim:`40 % <size_2>`, and
with batches of eight, which show it more images, :claim:`85 % <size_8>`.
Where the variance is remembered with the factor n/(n − 1), a single batch of one is 0 · ∞ and
leaves NaN in the population for ever.

.. symptom:: every prediction is the same
   :doctor: one_value_a_channel
   :cause: the layer gets one example at a time, in training mode, and puts out β
   :check: ``np.array_equal(model(x[:1]), model(x[1:2]))``, with ``training`` as in your code

.. symptom:: NaN or infinity
   :doctor: last_batch_of_one
   :cause: the last batch of an epoch has one example, and the variance is corrected by n/(n − 1)
   :check: ``[len(x) for x, y in dataset][-1] == 1``; of arrays ``len(x_train) % batch_size == 1``

.. symptom:: worse with small batches
   :doctor: small_batches
   :cause: in a batch of two only the sign of a difference is left, in a batch of one nothing
   :check: batch · height · width, where the layer stands, is below 8
"""

# %%
# Check
# -----
# Give the checks your data in the batches that ``fit`` takes. In a model that is trained already,
# look for NaN in ``layer.moving_variance``.

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Drop the last batch where it is small, or take a layer that remembers the biased variance, as
# Keras 3 and bnref do. With one example per device, synchronize
# (:class:`bnref.layers.SyncBatchNorm`) or freeze (:class:`bnref.layers.FrozenBatchNorm`). Subtract
# large constants before the layer.
#
# Wrong
# ^^^^^


def batches(dataset):
    return dataset.batch(32)


# %%
# Right
# ^^^^^


def whole_batches(dataset):
    return dataset.batch(32, drop_remainder=True)


# %%
# Wrong, a layer of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^^


class Corrected(bnref.BatchNorm):
    def update_population(self, moments):
        """Remembered how? With Bessel's correction."""
        freedom = moments.count - 1
        corrected = moments.variance * (moments.count / freedom)
        super().update_population(moments._replace(variance=corrected))


# %%
# Right, a layer of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^^


class CorrectedFromTwo(bnref.BatchNorm):
    def update_population(self, moments):
        """Remembered how? With Bessel's correction, where there is one."""
        freedom = tf.maximum(moments.count - 1, 1)
        corrected = moments.variance * (moments.count / freedom)
        super().update_population(moments._replace(variance=corrected))


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    loader = DataLoader(data, batch_size=32)
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    loader = DataLoader(data, 32, drop_last=True)
#
# Why
# ---
# It goes wrong at question 1 (whose statistics): they are those of too few. In a batch of two a
# layer sees of each channel only which example has more. The NaN comes from question 2 (remembered
# how). PyTorch and TensorFlow's fused operation remember the corrected variance. On the CPU the
# latter guards against n = 1; on GPUs NaN was reported.
#
# Met in `tensorflow/tensorflow#34062 <https://github.com/tensorflow/tensorflow/issues/34062>`_
# (NaN, on GPUs alone), `pytorch/pytorch#1381 <https://github.com/pytorch/pytorch/issues/1381>`_,
# and, for constants, `pytorch/pytorch#5410 <https://github.com/pytorch/pytorch/issues/5410>`_.
#
# Experiment
# ----------
# What layers remember of batches of 32 in which the last one of an epoch has one example.

random = np.random.default_rng(0)
examples = tf.data.Dataset.from_tensor_slices(random.standard_normal((97, 4)).astype("float32"))


def remembered(norm, batched):
    layer = norm()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "layer .* a batch of one value a channel")
        for batch in batched(examples):
            layer(batch, training=True)
    return float(layer.moving_variance[0])


norms = (Corrected, CorrectedFromTwo, bnref.BatchNorm, keras.layers.BatchNormalization)
of_all = {norm.__name__: remembered(norm, batches) for norm in norms}
of_whole = {norm.__name__: remembered(norm, whole_batches) for norm in norms}
with tf.device("CPU:0"):
    one = tf.ones((1, 1, 1, 4))
    fused = tf.compat.v1.nn.fused_batch_norm(one, one[0, 0, 0], one[0, 0, 0])[2].numpy()
print("with the last batch of one:", of_all, "without:", of_whole)

# %%
# Perceptrons are trained for 200 steps at one rate, and tested with exact population statistics. In
# 200 steps larger batches also show more images: only the batch of one learns nothing at all.

data = datasets.load("mnist").take(train=2000, test=1000)
sizes = 1, 2, 8, 32
seeds = range(scale.at_scale(quick=3, full=10))


def network():
    return models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1), units=(64, 64))


model = network()
step = training.Run(model, keras.optimizers.SGD(0.1)).step


def accuracy(size, seed):
    keras.utils.set_random_seed(seed)
    model.set_weights(network().get_weights())
    batches = training.shuffled_batches(data.x_train, data.y_train, batch_size=size, seed=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "layer .* a batch of one value a channel")
        for _ in range(200):
            step(*next(batches))
    population.recompute(model, [data.x_train])
    return np.mean(np.argmax(model(data.x_test, training=False), -1) == data.y_test)


scores = np.array([[accuracy(size, seed) for seed in seeds] for size in sizes])
pair = bnref.BatchNorm(epsilon=1e-7)(random.standard_normal((2, 64)), training=True)
alone = keras.layers.BatchNormalization()(random.standard_normal((1, 64)), training=True)

# %%
# A channel never varies over its 4,096 values. Its mean is rounded, so x − μ is not 0, and 1/√ε is
# large: there is hardly any noise at 1, and at 10,000 and above it can be as large as the signal.

constants = np.float32(10) ** np.arange(7, dtype="float32")
columns = np.tile(np.linspace(1, 2, 64, dtype="float32"), (4096, 1))


def noise_of(epsilon):
    norm = bnref.BatchNorm(epsilon=epsilon)
    return [np.abs(norm(each * columns, training=True)).max() for each in constants]


noise = {epsilon: noise_of(epsilon) for epsilon in (1e-3, 1e-5)}

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
left.semilogx(sizes, scores, "oC0", base=2)
left.axhline(0.1, color="#555555", ls=":", lw=1, label="chance")
left.set(xlabel="batch size", xticks=sizes, xticklabels=sizes, ylim=(0, 1), ylabel="test accuracy")
left.legend(loc="upper left")
for (epsilon, outputs), style in zip(noise.items(), ("C0o-", "C1s-"), strict=True):
    right.loglog(constants, outputs, style, label=f"ε = {epsilon:g}")
right.legend()
right.set(xlabel="constant", ylabel="output", title="A constant channel")
plt.show()

# %%
# Proof
# -----
# What is remembered.

assert np.isnan(of_all["Corrected"]), "the factor n/(n − 1) leaves NaN after a batch of one"
for name in ("CorrectedFromTwo", "BatchNorm", "BatchNormalization"):
    assert np.isfinite(of_all[name]), f"{name} leaves none"
assert np.isfinite([*of_whole.values()]).all(), "without the last batch there is no NaN"
assert (fused == 0).all(), "TensorFlow's fused operation guards against it, on the CPU"

# %%
# The accuracies by batch size, and what comes out of batches of one and of two.

claim("size_1", scores[0], "test accuracy, batches of 1", above=0.05, below=0.2)
claim("size_2", scores[1], "test accuracy, batches of 2", above=0.2, below=0.75)
claim("size_8", scores[2], "test accuracy, batches of 8", above=0.6)
claim("size_32", scores[3], "test accuracy, batches of 32", above=0.7)
of_1, of_2, of_8, _ = scores.mean(1)
assert of_2 - of_1 > 0.1, "batches of 2 are better than batches of 1"
assert of_8 - of_2 > 0.1, "batches of 8 are better than batches of 2"
assert np.abs(alone).max() == 0, "a batch of one comes out at 0, which is β"
assert np.abs(np.abs(pair) - 1).max() < 0.01, "a batch of two at plus and minus 1"

# %%
# The constant channels.

print("largest output of a constant channel:", *np.array([*noise.values()]).round(3))
assert max(noise[1e-5][4:]) > 0.2, "constants of 10,000 and more: rounding errors as large as 0.2"
assert noise[1e-5][0] < 0.1, "a constant of 1: hardly any"
assert (np.array(noise[1e-3]) <= np.array(noise[1e-5])).all(), "a larger ε damps them"

# %%
# The doctor, on wrong batches and on right ones.


def found(cause, number, batch_size):
    report = doctor.examine(model, data.x_train[:number], batch_size=batch_size, only=[cause])
    return [finding.evidence for finding in report.findings]


wrong = {"one_value_a_channel": (64, 1), "last_batch_of_one": (65, 32), "small_batches": (64, 2)}
for cause, (number, size) in wrong.items():
    evidence = found(cause, number, size)
    print("the doctor, of the wrong batches:", *evidence)
    assert evidence, f"{cause} fires on {number} examples in batches of {size}"
    assert not found(cause, number=64, batch_size=32), f"{cause} is silent on 64 in batches of 32"
