"""
What synchronizing batch norm costs, measured from one to eight replicas
========================================================================

A training step of :class:`bnref.layers.SyncBatchNorm` takes :claim:`0.6 <one>` of the time of one
of Keras's ``synchronized=True`` on one logical device, and :claim:`0.8 <eight>` on eight. The aim
is at most 0.8. Times belong to the machine named at the foot, so the bounds of the ratios are wide.
Both layers must compute the same gradients.

The global batch is the same, so that the work is, and logical devices share processor and memory:
what grows with their number is the overhead alone. Both answer question 1 (whose
statistics) alike; what waiting costs between GPUs is on paper in
:doc:`plot_collectives_of_synchronized_layers`.
"""

# sphinx_gallery_parallel = False

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training
from bnref_gallery import scale, timing
from bnref_gallery.claims import claim

devices.configure()
LAYERS = {
    "bnref.BatchNorm": bnref.BatchNorm,
    "bnref.SyncBatchNorm": bnref.SyncBatchNorm,
    "Keras": keras.layers.BatchNormalization,
    "Keras, synchronized": partial(keras.layers.BatchNormalization, synchronized=True),
}

# %%
# A training step of one layer on every replica: forward, and the gradients of its part, γ and β.


def step_of(make, strategy):
    with strategy.scope():
        layer = make()
        layer.build((None, 32, 32, 64))

    def replica(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        weights = [layer.gamma.value, layer.beta.value]
        return tape.gradient(y, [x, *weights], output_gradients=upstream)

    return tf.function(lambda *parts: strategy.run(replica, parts))


def last_number(strategy, step, *given):
    """One number of the last replica: when it can be read, all have ended."""
    return strategy.experimental_local_results(step(*given)[0])[-1][0, 0, 0]


def shared_out(values, strategy):
    parts = [tf.constant(part) for part in np.split(values, strategy.num_replicas_in_sync)]
    return strategy.experimental_distribute_values_from_function(
        lambda replica: parts[replica.replica_id_in_sync_group]
    )


REPLICAS = (1, 2, 4, 8)
random = np.random.default_rng(0)
x, upstream = random.standard_normal((2, 64, 32, 32, 64)).astype("float32")
x *= np.linspace(0.5, 2, 64)[:, None, None, None]  # replicas whose own statistics differ
seconds, distances = {name: [] for name in LAYERS}, []
for number in REPLICAS:
    strategy = training.strategy(number)
    given = shared_out(x, strategy), shared_out(upstream, strategy)
    steps = {name: step_of(make, strategy) for name, make in LAYERS.items()}
    timed = {name: partial(last_number, strategy, step) for name, step in steps.items()}
    rounds = scale.at_scale(quick=31, full=101)
    for name, value in timing.interleaved_medians(timed, *given, rounds=rounds).items():
        seconds[name].append(value)
    ours, theirs = (steps[name](*given) for name in ("bnref.SyncBatchNorm", "Keras, synchronized"))
    for a, b in zip(ours, theirs, strict=True):  # of the input, γ and β
        a, b = (np.stack(strategy.experimental_local_results(each)) for each in (a, b))
        distances.append(np.abs(a - b).max() / np.abs(b).max())

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for (name, each), style in zip(seconds.items(), ("C0o:", "C0s-", "C1o:", "C1s-"), strict=True):
    ax.plot(REPLICAS, 1000 * np.array(each), style, label=name)
ax.set(title="A layer's training step, global batch (64, 32, 32, 64)")
ax.set(ylabel="milliseconds", xlabel="logical devices", xticks=REPLICAS, ylim=(0, None))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The ratios, and the gradients of both.

of_keras = {}
for place, number in enumerate(REPLICAS):
    ours, theirs = seconds["bnref.SyncBatchNorm"][place], seconds["Keras, synchronized"][place]
    alone = seconds["bnref.BatchNorm"][place]
    of_keras[number] = ours / theirs
    print(f"{number} replicas: {ours / theirs:.2f} of Keras's, {ours / alone:.2f} of BatchNorm's")
print(f"gradients differ by {max(distances):.0e} of the largest at most")
for name, number in (("one", 1), ("eight", 8)):
    told = f"a step over one of Keras's, logical devices: {number}"
    claim(name, of_keras[number], told, above=0.2, below=2)
assert len(distances) == 3 * len(REPLICAS), "of the input, γ and β, each number of devices"
assert max(distances) < 1e-3, "both layers compute the same gradients"
