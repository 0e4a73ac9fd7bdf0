"""
One value a channel: nothing is learnt, and one last batch of one makes NaN
===========================================================================

A batch of one example is its own mean. The layer puts out β whatever comes in, no gradient passes,
and a network trained so stays **at chance**; in a batch of two it sees of each channel only which
example has more. Where the variance is remembered with the factor n/(n − 1), a **single** batch of
one is 0 · ∞ and leaves NaN in the population for ever. A channel that never varies is harmless at
0; at 10,000 and above its rounding errors, divided by √ε, can come out **as large as the signal**.

The symptom: the loss stands still, or the training is fine and every prediction NaN. Question 1,
*whose statistics*, is answered wrongly, by too few; the NaN is question 2's, *remembered how*.

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

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale

# %%
# The correction, for one value. PyTorch and TensorFlow's fused operation remember the corrected
# variance. On the CPU the latter guards against n = 1; on GPUs NaN was reported.


class Corrected(bnref.BatchNorm):
    def update_population(self, moments):
        """Remembered how? With Bessel's correction."""
        freedom = moments.count - 1  # wrong; right: tf.maximum(moments.count - 1, 1)
        corrected = moments.variance * (moments.count / freedom)
        super().update_population(moments._replace(variance=corrected))


random = np.random.default_rng(0)
batches = [random.standard_normal((n, 4)).astype("float32") for n in (32, 32, 32, 1, 32)]
remembered = {}
for norm in (Corrected, bnref.BatchNorm, keras.layers.BatchNormalization):
    layer = norm()
    for batch in batches:
        layer(batch, training=True)
    remembered[norm.__name__] = float(layer.moving_variance[0])
with tf.device("CPU:0"):
    one = tf.ones((1, 1, 1, 4))
    fused = tf.compat.v1.nn.fused_batch_norm(one, one[0, 0, 0], one[0, 0, 0])[2].numpy()

# %%
# Perceptrons, trained for 200 steps and tested with exact population statistics.

data = datasets.load("mnist").take(train=2000, test=500)
sizes, seeds = (1, 2, 8, 32), range(scale.at_scale(quick=3, full=10))


def network():
    return models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1), units=(64, 64))


def accuracy(size, seed):
    keras.utils.set_random_seed(seed)
    model.set_weights(network().get_weights())
    batches = training.shuffled_batches(data.x_train, data.y_train, batch_size=size, seed=seed)
    for _ in range(200):
        step(*next(batches))
    population.recompute(model, [data.x_train])
    return training.evaluate(model, data.x_test, data.y_test)[1]


model = network()
step = training.Run(model, keras.optimizers.SGD(0.1)).step  # compiled once for all
scores = np.array([[accuracy(size, seed) for seed in seeds] for size in sizes])
pair = bnref.BatchNorm(epsilon=1e-7)(random.standard_normal((2, 64)), training=True)
alone = keras.layers.BatchNormalization()(random.standard_normal((1, 64)), training=True)

# %%
# Constant channels, 4,096 values each. The mean is rounded, so x − μ is not 0, and 1/√ε is large.

constants = np.float32(10) ** np.arange(7, dtype="float32")
columns = np.tile(np.linspace(1, 2, 64, dtype="float32"), (4096, 1))
norms = bnref.BatchNorm(epsilon=1e-3), bnref.BatchNorm(epsilon=1e-5)
noise = {n.epsilon: [np.abs(n(c * columns, training=True)).max() for c in constants] for n in norms}

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
left.semilogx(sizes, scores, "oC0", base=2)
left.axhline(0.1, color="#555555", ls=":", lw=1, label="chance")
left.set(xlabel="batch size", xticks=sizes, xticklabels=sizes, ylim=(0, 1), title="Test accuracy")
left.legend(loc="upper left")
for (epsilon, outputs), style in zip(noise.items(), ("C0o-", "C1s-"), strict=True):
    right.loglog(constants, outputs, style, label=f"ε = {epsilon:g}")
right.legend()
right.set(xlabel="constant", title="Output of a constant channel")
plt.show()

# %%
# To check your own model: ``len(x_train) % batch_size``, and NaN in ``layer.moving_variance``; or
# ``bnref.doctor.examine(model, data, only=["one_value_a_channel", "last_batch_of_one"])``. Drop the
# last batch (``dataset.batch(32, drop_remainder=True)``), or use a layer that remembers the biased
# variance, as Keras 3 and bnref do. With one example a device, synchronize
# (:class:`bnref.layers.SyncBatchNorm`) or freeze (:class:`bnref.layers.FrozenBatchNorm`). Subtract
# large constants before the layer. Met in `tensorflow/tensorflow#34062
# <https://github.com/tensorflow/tensorflow/issues/34062>`_ (NaN, on GPUs alone),
# `pytorch/pytorch#1381 <https://github.com/pytorch/pytorch/issues/1381>`_, and, for constants,
# `pytorch/pytorch#5410 <https://github.com/pytorch/pytorch/issues/5410>`_.
#
# Conclusion
# ----------

print("remembered after a batch of one:", remembered, "TensorFlow, fused, on the CPU:", fused[0])
assert np.isnan(remembered.pop("Corrected")) and np.isfinite([*remembered.values()]).all()
assert (fused == 0).all()
for size, row in zip(sizes, scores, strict=True):
    print(f"batches of {size:2}: test accuracy {row.round(3)}")
assert scores[0].max() < 0.2 and (np.diff(scores.mean(1))[:2] > 0.1).all()
print("a batch of one comes out at", float(np.abs(alone).max()), "of two at ±", np.abs(pair).mean())
assert np.abs(alone).max() == 0 and np.abs(np.abs(pair) - 1).max() < 0.01
print("largest output of a constant channel:", *np.array([*noise.values()]).round(3))
assert max(noise[1e-5][4:]) > 0.2 and noise[1e-5][0] < 0.1, "at 10,000 and more, and at 1"
assert np.all(np.array(noise[1e-3]) <= np.array(noise[1e-5]))


def found(cause, number, batch_size):
    report = doctor.examine(model, data.x_train[:number], batch_size=batch_size, only=[cause])
    return [finding.evidence for finding in report.findings]


wrong = {"one_value_a_channel": (64, 1), "last_batch_of_one": (65, 32), "small_batches": (64, 2)}
for cause, (number, size) in wrong.items():
    evidence = found(cause, number, size)
    print("the doctor, of the wrong batches:", *evidence)
    assert evidence, f"{cause} fires on {number} examples in batches of {size}"
    assert not found(cause, number=64, batch_size=32), f"{cause} is silent on 64 in batches of 32"
