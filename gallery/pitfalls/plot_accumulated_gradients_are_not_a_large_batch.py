"""
Gradients accumulated over micro-batches are not those of the large batch
=========================================================================

Without batch norm the mean gradient of 32 micro-batches of 2 is that of the batch of 64, to
rounding. With it the two differ by **more than the gradient's own length**; even with two halves of
32 by more than a tenth of it. It is the gradient of ghost batch norm, to rounding. A small network
trained in micro-batches of 2 loses **more than 10 points** of accuracy on average; in micro-batches
of 8 fewer than 5.

The symptom: ``gradient_accumulation_steps`` was to make up for small batches, and does not.
Question 1, *whose statistics*, is answered wrongly: the micro-batch's alone. Question 2,
*remembered how*, changes with it: the population takes an update from each micro-batch, so that its
momentum for k of them is ρᵏ, and 0.9³² is 0.03.

.. symptom:: worse with small batches
   :doctor: accumulated_gradients
   :check: ``optimizer.gradient_accumulation_steps and batch_size < 8``
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale

# %%
# A network of two hidden layers; the mean gradient of the parts of a batch, and that of the whole.

data = datasets.load("mnist").take(train=3000, test=500)
network = partial(models.perceptron, inputs=(28, 28, 1), units=(64, 64))
NORMS = {
    "batch norm": partial(bnref.BatchNorm, momentum=0.9),
    "group norm": partial(keras.layers.GroupNormalization, groups=8),
    "no norm": None,
}
PARTS = (2, 4, 8, 16, 32)


def gradient(norm, parts):
    """The mean gradient of the parts of one batch, as one long vector."""
    keras.utils.set_random_seed(0)
    model, found = network(norm), []
    for part in np.split(np.arange(64), parts):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=data.y_train[part], logits=model(data.x_train[part], training=True)
            )
            loss = tf.reduce_mean(losses)
        values = tape.gradient(loss, [each.value for each in model.trainable_variables])
        found.append(np.concatenate([np.ravel(each) for each in values]))
    return np.mean(found, 0)


def error(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


errors = {
    name: [error(gradient(norm, parts), gradient(norm, 1)) for parts in PARTS]
    for name, norm in NORMS.items()
}
ghosts = [
    error(gradient(NORMS["batch norm"], k), gradient(partial(bnref.GhostBatchNorm, groups=k), 1))
    for k in PARTS
]

# %%
# Training with Keras's accumulation, 40 steps of the weights by 64 images each:


def accuracy(parts, seed):
    keras.utils.set_random_seed(seed)
    model = network(NORMS["batch norm"])
    accumulated = {"gradient_accumulation_steps": parts} if parts > 1 else {}  # wrong
    step = training.Run(model, keras.optimizers.SGD(0.1, **accumulated)).step
    examples = data.x_train, data.y_train
    batches = training.shuffled_batches(*examples, batch_size=64 // parts, seed=seed)
    for _ in range(40 * parts):
        step(*next(batches))
    return training.evaluate(model, data.x_test, data.y_test)[1]


seeds, sizes = range(scale.at_scale(quick=3, full=10)), {2: 32, 8: 8, 64: 1}
accuracies = {size: np.array([accuracy(parts, s) for s in seeds]) for size, parts in sizes.items()}

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
for (name, values), style in zip(errors.items(), ("C1X-", "C2D-", "C4o:"), strict=True):
    left.loglog([64 // parts for parts in PARTS], values, style, label=name)
left.set(title="Error of the gradient", xlabel="micro-batch", ylim=(1e-8, 100))
left.set(xticks=[2, 4, 8, 16, 32], xticklabels=[2, 4, 8, 16, 32])
left.minorticks_off()
for size, values in accuracies.items():
    right.plot([str(size)] * len(seeds), values, "C0o" if size == 64 else "C1X")
right.set(title="Test accuracy, batch norm", xlabel="micro-batch", ylim=(0, 1))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, compare the two gradients as above, or call
# ``bnref.doctor.examine(model, data, only=["accumulated_gradients"])`` with the micro-batches. No
# fix is exact in one pass, for the statistics of the whole batch are known after the last part.
# Take larger micro-batches, or a norm that does not look at the batch; on several devices
# :class:`bnref.layers.SyncBatchNorm`.
# Met in `pytorch/pytorch#46516 <https://github.com/pytorch/pytorch/issues/46516>`_, which asks for
# it, and, for Keras, in `GradientAccumulator#6
# <https://github.com/andreped/GradientAccumulator/issues/6>`_.
#
# Conclusion
# ----------

for name, values in errors.items():
    print(f"error in 2 to 32 parts, {name:10}", *(f"{each:.1e}" for each in values))
print("against ghost batch norm:", *(f"{each:.1e}" for each in ghosts))
print("test accuracy by micro-batch:", {size: each.round(3) for size, each in accuracies.items()})
assert max(errors["no norm"] + errors["group norm"] + ghosts) < 1e-5
assert errors["batch norm"][0] > 0.1 and errors["batch norm"][-1] > 1
lost = {size: (accuracies[64] - accuracies[size]).mean() for size in (8, 2)}
assert lost[2] > 0.1 and lost[8] < 0.05 and round(0.9**32, 2) == 0.03


def found(parts):
    model = network(NORMS["batch norm"])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=parts))
    size = 64 // (parts or 1)
    report = doctor.examine(
        model, data.x_train[:128], batch_size=size, only=["accumulated_gradients"]
    )
    return [finding.evidence for finding in report.findings]


evidence = found(parts=32)
print("the doctor, of 32 micro-batches:", *evidence)
assert evidence, "the check fires on micro-batches of 2"
assert not found(parts=None), "and is silent on the whole batch"
