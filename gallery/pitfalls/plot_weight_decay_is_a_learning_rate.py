"""
Weight decay before batch norm is a learning rate
=================================================

The output of batch norm does not depend on the scale of the weights before it, so decay cannot
make the function simpler. It makes these weights turn faster: by **√(2ηλ)** a step once their
length has settled, 0.14 radians at a learning rate η = 0.1 and a decay λ = 0.1. Training with decay
is training without it at a learning rate that grows by (1 − ηλ)⁻² a step: the two curves are **the
same**. Decay of γ and β is real decay; up to λ = 0.02 it does not show in the accuracy here.

The symptom: a decay tuned without batch norm makes training noisy with it. None of the three
questions is answered wrongly.

.. symptom:: no better than without batch norm
   :doctor: gamma_vanishes
   :cause: weight decay tuned without batch norm acts as a learning rate, or shrinks γ
   :check: train once with ``weight_decay=0``; and
           ``[float(np.median(np.abs(norm.gamma))) for norm in bnref.norms.find(model)]`` is near 0
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale

STEPS, RATE = 300, 0.1
data = datasets.load("mnist").take(train=4000, test=500)

# %%
# For weights before batch norm the gradient at c·w is the gradient at w, divided by c. Put
# :math:`w_t = (1 - \eta\lambda)^t \tilde w_t` into :math:`w_{t+1} = (1 - \eta\lambda) w_t - \eta
# g(w_t)`, and the decay is gone (Li & Arora 2020, arXiv 1910.07454):
#
# .. math:: \tilde w_{t+1} = \tilde w_t - \eta (1 - \eta\lambda)^{-2t - 1} g(\tilde w_t)


def network():
    norm = partial(bnref.BatchNorm, momentum=0.9, epsilon=1e-8)
    return models.perceptron(norm, inputs=(28, 28, 1), units=(64, 64))


def turned(before, after):
    """Root mean square angle between the columns of two matrices."""
    unit = [w / np.linalg.norm(w, axis=0) for w in (before, after)]
    return np.sqrt(np.mean(np.arccos(np.clip((unit[0] * unit[1]).sum(0), -1, 1)) ** 2))


def learnt(where, decay):
    """Losses, test accuracy and the angle a step at the end; by seed."""
    model = network()
    weights, optimizer = model.trainable_variables, keras.optimizers.SGD(RATE)
    optimizer.build(weights)
    kernels = [v for v in weights if v.name == "kernel"][:-1]  # the last has no norm after it
    norms = [v for v in weights if v.name in ("gamma", "beta")]
    decayed = {"kernels": kernels, "γ and β": norms}.get(where, [])
    grows = {v.path for v in kernels if where == "growing rate"}

    @tf.function
    def step(x, y, growth):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [v.value for v in weights])
        for v in decayed:
            v.assign((1 - RATE * decay) * v)
        factors = [growth if v.path in grows else 1.0 for v in weights]
        optimizer.apply([f * g for f, g in zip(factors, gradients, strict=True)], weights)
        return loss

    for seed in range(scale.at_scale(quick=3, full=10)):
        keras.utils.set_random_seed(seed)
        model.set_weights(network().get_weights())
        batches = training.shuffled_batches(data.x_train, data.y_train, batch_size=32, seed=seed)
        losses, angles = [], []
        for number in range(STEPS):
            before, growth = kernels[1].numpy(), (1 - RATE * decay) ** (-2 * number - 1)
            losses.append(float(step(*next(batches), tf.constant(growth, tf.float32))))
            angles.append(turned(before, kernels[1].numpy()))
        accuracy = training.evaluate(model, data.x_test, data.y_test)[1]
        yield *losses, accuracy, np.mean(angles[-50:])
    networks[where, decay] = model


networks = {}  # the last of each arm
ARMS = [("none", 0), ("kernels", 0.1), ("growing rate", 0.1), ("kernels", 0.2), ("kernels", 0.5)]
ARMS += [("γ and β", 0.02), ("γ and β", 0.5)]
runs = {arm: np.array([*learnt(*arm)]) for arm in ARMS}
decays = np.array([0.1, 0.2, 0.5])
angles = np.array([runs["kernels", decay][:, -1] for decay in decays])

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.7), layout="constrained")
names = "no decay", "decay λ = 0.1", "growing learning rate"
for arm, style, width, name in zip(ARMS, ("C4", "C1", "C0--"), (1, 3, 1), names, strict=False):
    smooth = runs[arm][0, :-2].reshape(-1, 5).mean(1)
    left.plot(np.arange(2, STEPS, 5), smooth, style, lw=width, label=name)
left.set(xlabel="step", ylim=(0, 1.5), title="Training loss, one seed")
right.plot(decays, angles, "C1o", decays, np.sqrt(2 * RATE * decays), "k:")
right.set(xlabel="λ", title="Radians a step, dotted √(2ηλ)", xticks=decays, ylim=(0, 0.4))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, look at the length of the weights: where it has settled, learning rate
# and decay act through ηλ alone, so tune the two together. Whether decay has shrunk γ, says
# ``bnref.doctor.examine(model, data, only=["gamma_vanishes"])`` of a compiled model. To spare γ and
# β, in Keras 3: ``optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])``. See also van
# Laarhoven 2017, arXiv 1706.05350; asked, without an answer, in `google-research/bert#289
# <https://github.com/google-research/bert/issues/289>`_.
#
# Conclusion
# ----------

accuracies = {arm: rows[:, -2].round(3) for arm, rows in runs.items()}
for (where, decay), values in accuracies.items():
    print(f"decay {decay:4} of {where:12} accuracies {values}")
print("radians a step:", angles.mean(1).round(3), "theory:", np.sqrt(2 * RATE * decays).round(3))
none, same = (abs(runs["kernels", 0.1] - runs[arm])[:, :100].max() for arm in (ARMS[0], ARMS[2]))
print(f"largest difference of the losses in 100 steps: {same:.5f}, without decay {none:.2f}")
assert same < 0.02 and none > 0.1
assert abs(angles.mean(1) / np.sqrt(2 * RATE * decays) - 1).max() < 0.15
lost = {arm: (accuracies["none", 0] - values).mean() for arm, values in accuracies.items()}
assert lost["kernels", 0.5] > 0.05 and abs(lost["γ and β", 0.02]) < 0.03 < lost["γ and β", 0.5]


def found(decay):
    model = networks["γ and β", decay]
    model.compile(keras.optimizers.SGD(RATE, weight_decay=decay))
    report = doctor.examine(model, data.x_test[:64], only=["gamma_vanishes"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of γ under decay:", *found(0.5))
assert found(0.5), "the check fires where γ has shrunk"
assert not found(0.02), "and is silent where it has not"
