"""
One collective forward, one backward: what synchronizing batch norm has to wait for
===================================================================================

:class:`bnref.layers.SyncBatchNorm` needs one collective forward and one backward for a layer and a
step, the least possible; ``synchronized=True`` of Keras and tf_keras needs three and two. So few
numbers cost the latency of a collective and little else. On paper, the 53 batch norms of a
ResNet-50 wait :claim:`30 ms <ours>` in each step on eight GPUs that are 20 µs apart, where Keras's
would wait :claim:`75 ms <kerass>`; with 2 µs between them it is a tenth of both.

All of these answer question 1 (whose statistics) alike; what differs is how often the replicas wait
for one another. What it takes on logical devices, measured:
:doc:`plot_synchronizing_one_to_eight_replicas`.
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import devices
from bnref_gallery.claims import claim

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
# They are counted in the graph that TensorFlow makes of a layer under ``MirroredStrategy``: of the
# forward pass, and of both.


def collectives(make, backward):
    strategy = tf.distribute.MirroredStrategy(devices.names(2))
    with strategy.scope():
        layer = make()
        layer.build((None, 64))

    def replica(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, x, output_gradients=x) if backward else y

    step = tf.function(lambda x: strategy.run(replica, (x,)))
    graph = step.get_concrete_function(tf.TensorSpec((32, 64))).graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return sum("Collective" in node.op for node in nodes) // 2  # one a replica


counts = {}
for name, make in LAYERS.items():
    forward, both = collectives(make, False), collectives(make, True)
    counts[name] = forward, both - forward
    print(f"{name:27} {forward} forward, {both - forward} backward")

# %%
# On paper, for GPUs. A ring of R sums b bytes by 2(R − 1) messages of b/R bytes, one after the
# other: t = 2(R − 1)(α + b/(R B)) with a latency α and a bandwidth B. Ours are b = 12 R C bytes
# forward, where each replica's count, mean and variance have a place of their own, and 8 C
# backward; Keras's are 4 C each, and one of 4. (A tree needs 2 log₂ R messages: 6 for eight GPUs
# instead of 14.)


def waiting(sizes, replicas, latency, bandwidth):
    """Seconds that collectives of these sizes take one after the other."""
    return sum(2 * (replicas - 1) * (latency + b / replicas / bandwidth) for b in sizes)


resnet = keras.applications.ResNet50(weights=None)
widths = [v.shape[0] for v in resnet.non_trainable_variables if v.name == "moving_mean"]
many, paper = np.array([2, 4, 8, 16, 32, 64]), {}
for place, link in {"20 µs, 12 GB/s": (20e-6, 12e9), "2 µs, 200 GB/s": (2e-6, 200e9)}.items():
    ours = [sum(waiting((12 * r * c, 8 * c), r, *link) for c in widths) for r in many]
    keras_ = [sum(waiting((4, *[4 * c] * 4), r, *link) for c in widths) for r in many]
    paper[f"SyncBatchNorm, {place}"], paper[f"Keras, {place}"] = np.array(ours), np.array(keras_)

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4), layout="constrained")
forward, backward = np.transpose(list(counts.values()))
left.barh(list(counts), forward, color="C0", label="forward")
left.barh(list(counts), backward, left=forward, color="C1", label="backward")
left.set(title="Collectives a layer", xticks=range(6), ylim=(5.6, -0.6))
left.tick_params(axis="y", labelsize="small")
for (name, each), style in zip(paper.items(), ("C3x-", "C3x:", "C2+-", "C2+:"), strict=True):
    right.loglog(many, 1000 * each, style, label=name)
right.set(title="On paper: ms a step,\nResNet-50", xlabel="GPUs", xticks=many, xticklabels=many)
right.minorticks_off()
fig.legend(loc="outside lower center", ncols=2, fontsize="small")
left.set_ylabel("layer")
right.set_ylabel("ms a step")
plt.show()

# %%
# The places that each replica has for its own numbers grow with R, and a message of the ring, b/R,
# does not: on paper ours wait :claim:`0.40 to 0.41 <shares>` of Keras's time on 2 GPUs as on 64,
# near two collectives of five.
#
# Proof
# -----
# The counts, and what they cost on paper.

expected = [(0, 0), (1, 0), (1, 0), (1, 1), (3, 2), (3, 2)]
assert list(counts.values()) == expected, "collectives forward and backward, layer by layer"
at_eight = [1000 * each[2] for each in paper.values()]
print(f"{len(widths)} layers, {sum(widths)} channels; ms on eight GPUs:", *np.round(at_eight, 1))
ratios = np.array([ours / theirs for ours, theirs in np.reshape([*paper.values()], (2, 2, -1))])
claim("shares", ratios, "ours over Keras's, 2 to 64 GPUs, both links", above=0.4, below=0.41)
assert len(widths) == 53, "the batch norms of a ResNet-50"
claim("ours", at_eight[0], "ms of waiting on eight GPUs, 20 µs", above=28.5, below=31.5)
claim("kerass", at_eight[1], "ms of waiting on eight GPUs, 20 µs, Keras", above=71, below=79)
tenth = np.divide(at_eight[:2], 10)
assert np.allclose(at_eight[2:], tenth, rtol=0.05), "with 2 µs it is a tenth"
