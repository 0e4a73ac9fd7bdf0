"""
What does every variant cost, beside Keras's nearest layer and beside memory itself?
====================================================================================

About **half of Keras's time** for most; the table below is from this build. Two cost more than the
base layer for a reason: ghost batches put their parts together by a copy, and for statistics of
single examples or domains there is no kernel. At its peak a training step takes **3 arrays** of the
size of the input in most layers, where Keras's takes **4 or 5**.

Times are medians of interleaved runs in this process. They are shown and not asserted; they belong
to the machine named at the foot. Peak memory is recorded, and asserted.
"""

# sphinx_gallery_parallel = False

import textwrap
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import benchmark, records

KERAS = keras.layers.BatchNormalization
RENORM, GHOSTS = (
    partial(bnref.BatchRenorm, r_max=3, d_max=5),
    partial(bnref.GhostBatchNorm, groups=8),
)
DOMAINS = partial(bnref.DomainBatchNorm, domains=2)
WEIGHING = partial(bnref.ExampleWeighingBatchNorm, example_weight=0.1)
NEAREST = {  # ours, Keras's, and the aim for the ratio where there is a counterpart
    "BatchNorm": (bnref.BatchNorm, KERAS, 0.7),
    "SyncBatchNorm": (bnref.SyncBatchNorm, partial(KERAS, synchronized=True), 0.8),
    "PooledBatchNorm": (bnref.PooledBatchNorm, KERAS, 0.8),
    "DebiasedBatchNorm": (bnref.DebiasedBatchNorm, KERAS, 0.8),
    "CumulativeBatchNorm": (bnref.CumulativeBatchNorm, KERAS, 0.8),
    "LasagneBatchNorm": (partial(bnref.LasagneBatchNorm, epsilon=1e-3), KERAS, 0.8),
    "UntrackedBatchNorm": (bnref.UntrackedBatchNorm, KERAS, 0.8),
    "FrozenBatchNorm": (bnref.FrozenBatchNorm, KERAS, 0.8),  # Keras's with training=False
    "BatchRenorm": (RENORM, partial(KERAS, renorm=True), 0.8),
    "MaskedBatchNorm": (bnref.MaskedBatchNorm, KERAS, 0.8),
    "GhostBatchNorm": (GHOSTS, partial(keras.layers.GroupNormalization, 8), 0.8),
    "DomainBatchNorm": (DOMAINS, KERAS, np.nan),
    "ExampleWeighing, inference": (WEIGHING, KERAS, np.nan),
}


def step(layer, name, x):
    """Forward and backward pass of a layer alone, compiled."""
    told = {"training": "inference" not in name and "Frozen" not in name}
    if name == "MaskedBatchNorm":  # a tenth of the steps is padding
        told["mask"] = tf.constant(np.random.default_rng(0).random(x.shape[:-1]) > 0.1)
    if isinstance(layer, bnref.DomainBatchNorm):
        told["domain"] = tf.range(x.shape[0]) % 2
    layer.build(x.shape)

    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **told)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    return tf.function(run).get_concrete_function(x, x)


# %%
# The limit of memory
# -------------------
# A training step cannot but read x twice (for its moments, then to normalize it) and write y; then
# read x and dy twice (for the two sums, then for dx) and write dx: 8 arrays of the size of x. The sum
# of two arrays moves 3 and says what an array costs here; a small one may stay in the cache.

random, agree = np.random.default_rng(0), {}
fig, axes = plt.subplots(1, 2, figsize=(6.2, 4.6), layout="constrained", sharey=True)
for ax, shape in zip(axes, [(64, 32, 32, 64), (4096, 512)], strict=True):
    x, dy = (tf.constant(random.standard_normal(shape, "float32")) for _ in range(2))
    steps = {"limit": tf.function(lambda x, dy: (x + dy,))}
    for name, (ours, theirs, _) in NEAREST.items():
        pair = [step(kind(), name, x) for kind in (ours, theirs)]
        steps[name], steps[f"Keras, {name}"] = pair
        agree[name] = max(
            np.abs(a - b).max() for a, b in zip(*(f(x, dy) for f in pair), strict=True)
        )
    seconds = benchmark.interleaved_medians(steps, x, dy, rounds=15)
    limit = 8 / 3 * seconds["limit"]
    print(
        f"\nfloat32 {shape}; 8 arrays cost {1e3 * limit:.1f} ms\n{'':28}  ms  of Keras  of base  of limit"
    )
    ratios = {name: seconds[name] / seconds[f"Keras, {name}"] for name in NEAREST}
    for name, ratio in ratios.items():
        own = seconds[name]
        print(
            f"{name:27}{1e3 * own:5.1f}{ratio:10.2f}{own / seconds['BatchNorm']:9.2f}{own / limit:10.1f}"
        )
    ax.barh(list(ratios), ratios.values(), color="C0")
    ax.plot(
        [aim for *_, aim in NEAREST.values()], range(len(NEAREST)), "C1|", ms=12, mew=2, label="aim"
    )
    ax.set(title=str(shape), xlabel="time, nearest of Keras = 1")
axes[0].invert_yaxis()
axes[1].legend()
plt.show()

# %%
# Ghost batches miss the aim of 1.1 of the base layer where a batch is an image's: the parts are
# normalized one by one and then copied together, in each direction, which moves 4 arrays more.
#
# Peak memory
# -----------
# Recorded: a process for each layer, what it grows by in one step, in arrays of the size of x. Two
# are y and dx. The third is the part of the gradient that is taken away; a mask, domains and ghosts
# need one or two more.

provenance, record = records.read(records.recorded("peak_memory.csv"))
print(textwrap.fill(records.provenance_line(provenance), 95))
arrays = dict(zip(record["layer"], record["arrays"], strict=True))
fig, ax = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
colours = ["C0" if "bnref" in name else "#999999" for name in arrays]
ax.barh([name.split(".")[-1] for name in arrays], arrays.values(), color=colours)
ax.set(xlabel="peak, arrays of the size of x (grey: Keras)")
ax.invert_yaxis()
plt.show()

# %%
# Conclusion
# ----------

same = list(NEAREST)[:8]
print("largest difference from Keras, the same formula:", max(agree[name] for name in same))
assert max(agree[name] for name in same) < 0.05, "sums of many values, in another order"
keras_least = min(count for name, count in arrays.items() if "keras" in name)
plain = ("BatchNorm()", "SyncBatchNorm()", "DebiasedBatchNorm()", "LasagneBatchNorm()")
assert max(arrays[f"bnref.{name}"] for name in plain) < 3.3 < keras_least - 0.5
