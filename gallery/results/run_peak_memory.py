"""Record the peak memory of a training step of every layer, beside Keras's.

``python gallery/results/run_peak_memory.py``: for each layer three processes, one after the other.
Each makes x and dy of shape (512, 32, 32, 64), 134 MB each, takes two compiled steps on a few
examples and then one forward and backward pass on all; the growth of the largest resident size, in
arrays of the size of x, is the record. The output y and the gradient dx are 2 of it; what is more
is kept or temporary, and may differ with the order in which TensorFlow runs operations that do not
wait for each other. About 5 minutes on two cores. Linux only. Stopped and started again, it goes
on where it was.
"""

import resource
import subprocess
import sys

SHAPE = (512, 32, 32, 64)
LAYERS = {
    "keras.layers.BatchNormalization()": "",
    "keras.layers.BatchNormalization(renorm=True)": "",
    "keras.layers.BatchNormalization(synchronized=True)": "",
    "keras.layers.GroupNormalization(8)": "",
    "keras.layers.LayerNormalization()": "",
    "bnref.BatchNorm()": "",
    "bnref.SyncBatchNorm()": "",
    "bnref.GhostBatchNorm(groups=8)": "",
    "bnref.BatchRenorm(r_max=3, d_max=5)": "",
    "bnref.DebiasedBatchNorm()": "",
    "bnref.LasagneBatchNorm()": "",
    "bnref.FrozenBatchNorm()": "",
    "bnref.MaskedBatchNorm()": "mask",
    "keras.layers.BatchNormalization() with a mask": "mask",
    "bnref.DomainBatchNorm(domains=2)": "domain",
}


def measure(code):
    """Print by how many arrays of the size of x the process grew; called in a child."""
    import keras  # noqa: F401
    import numpy as np
    import tensorflow as tf

    import bnref  # noqa: F401

    layer, extra = eval(code.removesuffix(" with a mask")), LAYERS[code]  # our own text, above

    @tf.function(reduce_retracing=True)
    def step(x, dy):
        size = tf.shape(x)[0]
        extras = {"mask": tf.fill(tf.shape(x)[:3], True), "domain": tf.range(size) % 2}
        extras = {extra: extras[extra]} if extra else {}
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, **extras)
        return y, tape.gradient(y, x, dy)

    # Made in place: what is freed again would hide in the largest size so far.
    few = [tf.random.stateless_normal((8, *SHAPE[1:]), seed=(0, each)) for each in range(2)]
    x, dy = (tf.tile(each, (SHAPE[0] // 8, 1, 1, 1)) for each in few)
    layer.build(SHAPE)
    for size in (8, 16):  # traced for any size before what counts
        step(x[:size], dy[:size])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(x, dy)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) * 1024 / (4 * np.prod(SHAPE)))


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1])
        sys.exit()
    from bnref_gallery import records

    record = records.Record(
        records.path_of("peak_memory.csv"), key=("layer", "run"),
        columns=("layer", "run", "arrays"), provenance={"data": f"random, {SHAPE}, float32"},
    )  # fmt: skip
    for one in record.progress(
        [{"layer": code, "run": run} for run in range(3) for code in LAYERS]
    ):
        done = subprocess.run(
            [sys.executable, __file__, one["layer"]], capture_output=True, text=True, check=True
        )
        record.add([{**one, "arrays": round(float(done.stdout.split()[-1]), 2)}])
