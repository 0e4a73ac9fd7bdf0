"""
Several replicas: whose statistics normalize, and which are remembered?
=======================================================================

Each replica's own, and the first replica's, unless you say otherwise. While every replica gets a
fair share of the data that does not matter: two replicas of 32 images learn like one device with
64. Where each gets the images of another camera, the saved model reads **55 to 70 %** of the test
images instead of 85 to 90. Remembering the pooled statistics of all replicas helps a little;
synchronized batch norm **equals one device**, for one collective each way.

:class:`bnref.layers.SyncBatchNorm` answers question 1, *whose statistics*, differently,
:class:`bnref.layers.PooledBatchNorm` question 2, *remembered how*.

.. symptom:: worse on two GPUs
   :doctor: replicas_differ
   :check: print ``layer.moving_mean`` on every replica
"""

import itertools
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import devices, doctor, training
from bnref_gallery import datasets, models, scale

devices.configure()
data = datasets.load("mnist").take(train=3000, test=300)
SEEDS, STEPS = range(scale.at_scale(quick=3, full=10)), 120
RATE = keras.optimizers.schedules.CosineDecay(0.2, STEPS)


def two_cameras(x):
    """Every image as it is; then each bright, with a third of the contrast."""
    return np.concatenate([x, 0.4 + x / 3])


x_train, x_test = two_cameras(data.x_train), two_cameras(data.x_test)
y_train, y_test = np.tile(data.y_train, 2), np.tile(data.y_test, 2)

# %%
# A run takes global batches of 64: each replica its half of them. The loss is divided by the global
# batch; the optimizer adds the gradients of the replicas up.


def learn(norm, replicas):
    """Test accuracy every 20 steps: a row a seed, for both ways to share the data; the run."""
    strategy = training.strategy(replicas)
    network = partial(models.perceptron, partial(norm, momentum=0.9), inputs=(28, 28, 1))
    with strategy.scope():
        model, optimizer = network(), keras.optimizers.SGD(RATE)
    run, curves = training.Run(model, optimizer), {"shuffled": [], "by camera": []}
    for order, seed in itertools.product(curves, SEEDS):  # traced once, other weights
        keras.utils.set_random_seed(seed)
        model.set_weights(network().get_weights())
        optimizer.iterations.assign(0)
        chosen = np.random.default_rng(seed).integers(0, 3000, (STEPS, 2, 32))
        chosen += 3000 * (np.arange(2)[:, None] if order == "by camera" else np.arange(32) % 2)
        curves[order].append([])
        for number, indices in enumerate(chosen.reshape(STEPS, 64), start=1):
            run.step(x_train[indices], y_train[indices])
            if number % 20 == 0:
                curves[order][-1].append(run.evaluate(x_test, y_test)[1])
    return {order: np.array(rows) for order, rows in curves.items()}, run


ARMS = {
    "one device": (bnref.BatchNorm, 1),
    "each its own": (bnref.BatchNorm, 2),
    "pooled memory": (bnref.PooledBatchNorm, 2),
    "synchronized": (bnref.SyncBatchNorm, 2),
}
curves, finished = {}, {}
for name, arm in ARMS.items():
    curves[name], finished[name] = learn(*arm)
fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.8), layout="constrained", sharey=True)
for ax, order in zip(axes, ("shuffled", "by camera"), strict=True):
    for index, (name, each) in enumerate(curves.items()):
        style, steps = ("C4", "C1", "C2", "C0--")[index], range(20, STEPS + 1, 20)
        ax.plot(steps, each[order].T, style, lw=0.8, alpha=0.6)
        ax.plot(steps, each[order].mean(0), style, lw=2.2, label=name)
    ax.set(title=f"Test accuracy, {order}", xlabel="training step", ylim=(0, 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Why the memory alone helps so little: in training each camera's images are normalized by that
# camera's statistics, so the network never sees the difference between the cameras that any
# population leaves in them.
#
# To check your own model, compare what the replicas remember,
# ``strategy.experimental_local_results(layer.moving_mean.value)``, as
# ``bnref.doctor.examine(model, data, only=["replicas_differ"])`` does. Shuffle before sharding; if
# that cannot be, or a replica's batch is small (:doc:`plot_batch_size_per_replica`), synchronize.
#
# Conclusion
# ----------

end = {name: {order: rows[:, -1] for order, rows in each.items()} for name, each in curves.items()}
for name, each in end.items():
    print(f"{name:14}", {order: np.round(rows, 3).tolist() for order, rows in each.items()})
one, own, pooled, synchronized = (each["by camera"] for each in end.values())
assert np.ptp([each["shuffled"].mean() for each in end.values()]) < 0.04, "fair shares: all alike"
assert max(own.max(), pooled.max()) < one.min() - 0.05 and own.mean() < one.mean() - 0.15
assert pooled.mean() < (own.mean() + 2 * one.mean()) / 3, "the memory is the smaller fault"
assert np.abs(one - synchronized).max() < 0.03, "one device, but for rounding"


def found(name):
    """What the doctor says after one more step by camera: evaluation made the replicas equal."""
    run, dark, bright = finished[name], np.arange(32), 3000 + np.arange(32)
    by_camera = np.concatenate([dark, bright])
    run.step(x_train[by_camera], y_train[by_camera])
    some = x_train[by_camera], y_train[by_camera]
    report = doctor.examine(run.model, some, only=["replicas_differ"])
    return [finding.evidence for finding in report.findings]


evidence = found("each its own")
print("the doctor, of the wrong model:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found("synchronized"), "and is silent on the right one"
