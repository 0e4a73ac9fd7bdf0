"""
TensorFlow's compiled training step, run by JAX without TensorFlow
==================================================================

A training step that TensorFlow has compiled for XLA is :claim:`100 kB <kilobytes>` of StableHLO.
JAX runs it where TensorFlow is not installed, and comes to the same but for rounding: results
differ by :claim:`0.0009 % <error>` of the largest at most. On the CPU of the record a step of a
small network takes :claim:`1.09 times <ours>` as long with batch norm as without any, and
:claim:`1.06 times <kerass>` with Keras's layer. Synchronized batch norm on one device comes to the
same as ours, to the bit.

This is TensorFlow's program, XLA's compiler and JAX's runtime; neither Keras nor ``bnref`` is there
when it runs. It is recorded, and not measured in this build. No GPU was at hand for the record: the
programs are written for one too, and the same command runs them there.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from bnref_gallery import records
from bnref_gallery.claims import claim

# %%
# How a step becomes a program
# ----------------------------
# A program has no variables: weights, statistics and data go in, the loss and the new weights and
# statistics come out. Keras calls a model so by ``stateless_call``::
#
#     def step(weights, state, x, y):
#         with tf.GradientTape() as tape:
#             tape.watch(weights)
#             logits, state = model.stateless_call(weights, state, x, training=True)
#             losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
#             loss = tf.reduce_mean(losses)
#         gradients = tape.gradient(loss, weights)
#         return [loss, *(w - 0.1 * g for w, g in zip(weights, gradients)), *state]
#
#     compiled = tf.function(step_of_flat_arguments, jit_compile=True)
#     text = compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")
#
# Such a way out of TensorFlow is asked for in `openxla/stablehlo#2708
# <https://github.com/openxla/stablehlo/issues/2708>`_ and, from Keras to StableHLO, in
# `keras-team/keras#18374 <https://github.com/keras-team/keras/issues/18374>`_; ``experimental`` in
# its name means that it may change.
#
# ``gallery/results/run_xla.py write`` does this for every layer, ``run`` hands the text to the XLA
# that JAX has. The layers' shape is that of a ResNet, (16, 56, 56, 64) on a CPU and 256 images on a
# GPU; the network has three convolutions, and learns 16 images a step, or 256. The programs take
# turns when they are timed. The curves are of one seed and few images: from epoch to epoch an
# accuracy moves by several points, so that they show that the programs learn, and no more.

provenance, record = records.read(records.path_of("xla_on_jax_cpu.csv"))
print(textwrap.fill(records.provenance_line(provenance), 95))
print("JAX", provenance["jax"], "on", provenance["xla device"])
NORMS = ["no norm", "bnref.BatchNorm", "bnref.SyncBatchNorm", "keras.layers.BatchNormalization"]


def recorded(program, what):
    (value,) = record["value"][(record["program"] == program) & (record["what"] == what)]
    return value


def curve(norm, what):
    return [recorded(f"step, {norm}", f"{what}, epoch {epoch}") for epoch in range(1, 6)]


# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.2), layout="constrained")
for row, norm in enumerate(NORMS):
    left.barh(row, 1000 * recorded(f"step, {norm}", "seconds"), color=f"C{row}")
    right.plot(range(1, 6), curve(norm, "accuracy"), f"C{row}o-", ms=4)
short = [norm.rpartition(".")[2] for norm in NORMS]
left.set(title="A training step", xlabel="milliseconds", yticks=range(4), yticklabels=short)
left.invert_yaxis()
right.set(
    title="CIFAR-10, 2,560 images", xlabel="epoch", ylabel="test accuracy", xticks=range(1, 6)
)
left.set_ylabel("layer")
plt.show()

# %%
# The passes of a layer
# ---------------------
# Forwards and backwards a layer reads x and dy and writes y and dx, each once if it could: what it
# moves so, over the time it takes, is a rate to compare with that of the memory.

for norm in NORMS[1:]:
    seconds, least = (recorded(f"layer, {norm}", what) for what in ("seconds", "least bytes"))
    print(f"{norm:32} {1000 * seconds:6.1f} ms, {least / seconds / 1e9:5.1f} GB/s at least")

# %%
# Conclusion
# ----------
# The differences from TensorFlow's own run, the times, and that the programs learn.

names = list(dict.fromkeys(record["program"]))
errors = [recorded(name, "error") for name in names]
claim("error", max(errors), "largest difference from TensorFlow's run, relative", below=1e-4)
characters = recorded("step, bnref.BatchNorm", "characters")
claim("kilobytes", characters / 1000, "text of a step, kB", above=50, below=200)
plain, ours, synchronized, kerass = (recorded(f"step, {norm}", "seconds") for norm in NORMS)
claim("ours", ours / plain, "step with bnref.BatchNorm, over one without", above=0.8, below=2)
claim("kerass", kerass / plain, "step with Keras's layer, over one without", above=0.8, below=2)
same = curve("bnref.BatchNorm", "loss") == curve("bnref.SyncBatchNorm", "loss")
assert same, "on one device synchronized batch norm learns to the same, to the bit"
for norm in NORMS[1:]:
    losses = curve(norm, "loss")
    assert losses[-1] < 0.8 * losses[0], f"{norm}: the program learns"
    assert np.isclose(losses[-1], curve(NORMS[1], "loss")[-1], rtol=0.1), "and all learn alike"
