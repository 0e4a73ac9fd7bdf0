"""
What synchronizing batch norm costs, from one to eight replicas
===============================================================

:class:`bnref.layers.SyncBatchNorm` needs **one collective forward and one backward** for a layer
and a step, the least possible; Keras's and tf_keras's ``synchronized=True`` need **three and two**.
A collective of so few numbers costs its latency: over a network of 20 µs, the 53 batch norms of a
ResNet-50 wait some **15 ms** a step with eight replicas, on links within one machine a tenth of it.

Question 1, *whose statistics*, is answered alike by all; what differs is how often the replicas
wait for one another.
"""

# sphinx_gallery_parallel = False

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import benchmark, devices

devices.configure()
LAYERS = {
    "bnref.BatchNorm": bnref.BatchNorm,
    "bnref.PooledBatchNorm": bnref.PooledBatchNorm,
    "bnref.ReplicaMeanBatchNorm": bnref.ReplicaMeanBatchNorm,
    "bnref.SyncBatchNorm": bnref.SyncBatchNorm,
    "Keras, synchronized": partial(keras.layers.BatchNormalization, synchronized=True),
    "tf_keras, synchronized": partial(tf_keras.layers.BatchNormalization, synchronized=True),
}

# %%
# Collectives are counted in the graph that TensorFlow makes of a layer under
# ``MirroredStrategy``: forward alone, and with the gradient.


def on_replicas(layer, strategy, forward_only=False):
    """A function of the global batch: a forward pass of each replica's part, and its gradient."""

    def replica(x):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.split(x, strategy.num_replicas_in_sync)[tf.get_static_value(index) or 0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y[:1] if forward_only else tape.gradient(y, x, output_gradients=x)[:1]

    return tf.function(lambda x: strategy.run(replica, (x,)))


def built(make, replicas, operations=None):
    strategy = tf.distribute.MirroredStrategy(devices.replicas(replicas), operations)
    with strategy.scope():
        layer = make()
        layer.build((None, 32, 32, 64))
    return layer, strategy


def collectives(make):
    """How many there are forward and backward."""
    found = []
    for forward_only in (True, False):
        function = on_replicas(*built(make, 2), forward_only)
        graph = function.get_concrete_function(tf.TensorSpec((16, 32, 32, 64))).graph.as_graph_def()
        nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
        found.append(sum("Collective" in node.op for node in nodes) // 2)  # one a replica
    return found[0], found[1] - found[0]


counts = {name: collectives(make) for name, make in LAYERS.items()}
for name, (forward, backward) in counts.items():
    print(f"{name:27} {forward} forward, {backward} backward")

# %%
# Time of a training step of the layer, for the same global batch of (32, 32, 32, 64). Logical
# devices share the processor and the memory, so that what grows is the overhead alone.

REPLICAS = (1, 2, 4, 8)
x = tf.constant(np.random.default_rng(0).standard_normal((32, 32, 32, 64)).astype("float32"))
shown = ("bnref.BatchNorm", "bnref.SyncBatchNorm", "Keras, synchronized")
seconds = {name: [] for name in shown}
for replicas in REPLICAS:
    through_one = tf.distribute.ReductionToOneDevice()  # two strategies' collectives collide
    arms = {name: on_replicas(*built(LAYERS[name], replicas, through_one)) for name in shown}
    arms = {name: lambda x, f=f: tf.nest.flatten(f(x), True)[-1] for name, f in arms.items()}
    rounds = devices.at_scale(quick=21, full=101)
    for name, value in benchmark.interleaved_medians(arms, x, rounds=rounds).items():
        seconds[name].append(value)

# %%
# On paper, for GPUs. A ring of R sends 2(R − 1) messages one after the other for a sum of b bytes,
# each of b/R bytes: t = 2(R − 1)(α + b/(R B)) with the latency α and the bandwidth B of a link.
# Forward b is 12 R C bytes, because each replica's count, mean and variance have a place of their
# own, and backward 8 C.


def of_a_layer(channels, replicas, latency, bandwidth):
    """Seconds of both collectives."""
    messages = 2 * (replicas - 1)
    sizes = 12 * replicas * channels + 8 * channels
    return messages * (2 * latency + sizes / replicas / bandwidth)


resnet = keras.applications.ResNet50(weights=None)
widths = [v.shape[0] for v in resnet.non_trainable_variables if v.name == "moving_mean"]
LINKS = {"network, 20 µs, 12 GB/s": (20e-6, 12e9), "links, 2 µs, 200 GB/s": (2e-6, 200e9)}
many = np.array([2, 4, 8, 16, 32, 64])
paper = {
    name: np.array([sum(of_a_layer(c, r, *link) for c in widths) for r in many])
    for name, link in LINKS.items()
}

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.8), layout="constrained")
for (name, each), style in zip(seconds.items(), ("C4o-", "C0s-", "C1v-"), strict=True):
    left.plot(REPLICAS, 1000 * np.array(each), style, label=name)
left.set(title="Measured: ms a layer", xlabel="logical devices", xticks=REPLICAS, ylim=(0, None))
for (name, each), style in zip(paper.items(), ("C3x-", "C2+-"), strict=True):
    right.loglog(many, 1000 * each, style, label=name)
right.set(title="On paper: ms a step,\nResNet-50", xlabel="GPUs", xticks=many, xticklabels=many)
right.minorticks_off()
fig.legend(loc="outside lower center", ncols=2)
plt.show()
