"""
How much memory does a training step of each variant take?
==========================================================

Most layers here take :claim:`3.1 <ours>` arrays of the size of the input: the output, the gradient,
and the part of the gradient that is taken away at the end. Keras's layers take
:claim:`4.0 to 5.0 <kerass>`, for they keep intermediate results of the formula. Here a layer with a
mask takes :claim:`4.0 <masked>`, and eight ghost batches take :claim:`3.7 to 4.1 <ghosts>`. A
frozen layer takes :claim:`2.0 <frozen>`, the output and the gradient.

Recorded, and not measured in this build: each number needs a process of its own.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from bnref_gallery import records
from bnref_gallery.claims import claim

provenance, record = records.read(records.path_of("peak_memory.csv"))
names = list(dict.fromkeys(record["layer"]))
arrays = {name: record["arrays"][record["layer"] == name] for name in names}
fig, ax = plt.subplots(figsize=(6.2, 4.6), layout="constrained")
for row, (name, counts) in enumerate(arrays.items()):
    colour = "C0" if name.startswith("bnref") else "#999999"
    ax.barh(row, np.median(counts), color=colour)
    ax.plot(counts, [row] * len(counts), "k|", ms=8)
labels = [name.removeprefix("keras.layers.").removeprefix("bnref.") for name in names]
ax.set_yticks(range(len(names)), labels)
ax.set(
    ylabel="layer",
    xlabel="peak, arrays of the size of x",
    title="Grey: Keras. Marks: three processes",
)
ax.invert_yaxis()
plt.show()
print(textwrap.fill(records.provenance_line(provenance), 95))

# %%
# What has to be kept
# -------------------
# The gradient of every variant of question 1 needs x, the moments and two sums a channel
# (:doc:`/learn/backward_pass`), so nothing of full size but x, which is there anyway. With
# automatic differentiation of the formula, x − μ or x̂ are kept as well. A process is measured by
# the growth of its largest resident size; where operations do not wait for each other, their order
# decides how many temporary arrays there are at once, hence three processes. In an earlier record,
# on another machine, eight ghost batches took 3.1 to 3.2.
#
# In your own model
# -----------------
# On a GPU ``tf.config.experimental.get_memory_info("GPU:0")["peak"]`` says it for a whole step. On
# a CPU compare ``resource.getrusage(resource.RUSAGE_SELF).ru_maxrss`` before and after, in a fresh
# process: what TensorFlow frees it does not give back.
#
# Proof
# -----
# Medians of three processes each, in arrays of the size of x.

for name, counts in arrays.items():
    print(f"{name:55} {np.median(counts):4.1f}   {counts.min():.1f} to {counts.max():.1f}")

middle = {name: np.median(counts) for name, counts in arrays.items()}
keras = [count for name, count in middle.items() if "keras" in name]
ours = [count for name, count in middle.items() if "bnref" in name]
masked, frozen = middle["bnref.MaskedBatchNorm()"], middle["bnref.FrozenBatchNorm()"]
ghosts = middle["bnref.GhostBatchNorm(groups=8)"]
plain = [count for count in ours if count not in (masked, frozen, ghosts)]
claim("kerass", keras, "arrays at the peak, Keras's layers", above=3.7, below=5.3)
claim("ours", plain, "arrays at the peak, all layers here but three", above=2.0, below=3.4)
claim("masked", masked, "arrays at the peak, MaskedBatchNorm", above=3.4, below=4.2)
of_ghosts = arrays["bnref.GhostBatchNorm(groups=8)"]
claim("ghosts", of_ghosts, "arrays at the peak, eight ghost batches", above=2.9, below=4.3)
claim("frozen", frozen, "arrays at the peak, FrozenBatchNorm", above=1.9, below=2.1)
assert max(plain) < min(keras), "each of these takes less than any of Keras's"
