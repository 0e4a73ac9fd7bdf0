"""
What does every variant cost, beside Keras's nearest layer and beside memory itself?
====================================================================================

A training step of one of our layers takes, in the middle of all, :claim:`0.7 <middle>` of the time
of Keras's nearest layer. Three do more than the base layer. Ghost batches are put
together by a copy, which makes :claim:`1.1 <ghosts>` times the base layer's time. A mask is laid
over the input and the output. For statistics of single examples or domains there is no kernel.

Times are medians of interleaved runs in this process. They belong to the machine named at the foot,
so the bounds of the ratios are wide. Layers of the same formula must agree with Keras's. What each
takes in memory: :doc:`plot_peak_memory_of_every_variant`.
"""

# sphinx_gallery_parallel = False

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref_gallery import timing
from bnref_gallery.claims import claim

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
    "ReplicaMeanBatchNorm": (bnref.ReplicaMeanBatchNorm, KERAS, 0.8),
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
    options = {"training": "inference" not in name and "Frozen" not in name}
    if name == "MaskedBatchNorm":  # a tenth of the steps is padding
        options["mask"] = tf.constant(np.random.default_rng(0).random(x.shape[:-1]) > 0.1)
    if isinstance(layer, bnref.DomainBatchNorm):
        options["domain"] = tf.range(x.shape[0]) % 2
    layer.build(x.shape)

    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **options)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    return tf.function(run).get_concrete_function(x, x)


# %%
# The limit of memory
# -------------------
# A training step cannot but read x twice (for its moments, then to normalize it) and write y; then
# read x and dy twice (for the two sums, then for dx) and write dx: 8 arrays of the size of x. The
# sum of two arrays moves 3 and says what an array costs here; a small one may stay in the cache.

HEAD = f"{'':30}ms   of Keras   of base   of limit"
random, agree, of_keras, of_base = np.random.default_rng(0), {}, {}, {}
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
    seconds = timing.interleaved_medians(steps, x, dy, rounds=7, warm_up=1)
    limit = 8 / 3 * seconds["limit"]
    print(f"\nfloat32 {shape}; 8 arrays cost {1e3 * limit:.1f} ms\n{HEAD}")
    ratios = {name: seconds[name] / seconds[f"Keras, {name}"] for name in NEAREST}
    of_keras[shape] = [ratios[name] for name in NEAREST if np.isfinite(NEAREST[name][2])]
    of_base[shape] = {name: seconds[name] / seconds["BatchNorm"] for name in NEAREST}
    for name, ratio in ratios.items():
        own, base = seconds[name], seconds["BatchNorm"]
        print(f"{name:27}{1e3 * own:5.1f}{ratio:11.2f}{own / base:10.2f}{own / limit:11.1f}")
    ax.barh(list(ratios), ratios.values(), color="C0")
    aims = [aim for *_, aim in NEAREST.values()]
    ax.plot(aims, range(len(aims)), "C1|", ms=12, mew=2, label="aim")
    ax.set_title(str(shape))
axes[0].invert_yaxis()
axes[1].legend()
fig.supxlabel("time, the nearest of Keras's layers = 1", fontsize="medium")
axes[0].set_ylabel("layer")
plt.show()

# %%
# Ghost batches aim at 1.1 times the base layer. The parts are normalized one by one and then copied
# together, in each direction, which moves 4 arrays more than the base layer. One kernel for the
# whole would need the groups among its channels, and they are the first axis.
#
# Proof
# -----
# The ratios, and how far layers of the same formula are from Keras's.

told = "a step over one of Keras's nearest layer, median of the layers that have one"
claim("middle", [np.median(each) for each in of_keras.values()], told, above=0.1, below=2)
ghosts = [each["GhostBatchNorm"] for each in of_base.values()]
claim("ghosts", ghosts, "a step of GhostBatchNorm over one of BatchNorm", above=0.6, below=5)
same = max(agree[name] for name in list(NEAREST)[:8])
print(f"largest difference from Keras where the formula is the same: {same:.1e}")
assert same < 0.05, "they agree but for sums of many values in another order"
