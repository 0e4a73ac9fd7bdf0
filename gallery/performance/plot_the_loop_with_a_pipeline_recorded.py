"""
The training loop and Keras ``fit`` on one ``tf.data`` pipeline: steps, replicas, start
=======================================================================================

Fed by the same pipeline, with Keras's own layer, a step of ``bnref.training`` takes
:claim:`0.77 <compute_1>` of the time of one of ``fit`` on one device. On two it takes
:claim:`1.01 <compute_2>`, where the aim is 0.95: nothing is won there. Where the pipeline is what
takes time, both wait for it alike, :claim:`0.96 to 1.03 <input>`. Until the first step is done it
takes :claim:`9 s <start_loop>` on one device, with ``fit`` :claim:`10 s <start_fit>`; most of that
is the import of TensorFlow. All of it is recorded, on a machine that did nothing else.

What a step costs beside a bare function: :doc:`plot_speed_of_the_training_loop_on_one_device`.
"""

# %%
# What was recorded
# -----------------
# ``gallery/results/run_scaling.py`` trains a network of two convolutions on batches of 128 images
# of 16 × 16 pixels, each arm in the same process: 40 steps of ``fit``, 40 of the loop, and so on,
# five rounds. A call is timed as a whole, with what it does before and after its steps.

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from bnref_gallery import records
from bnref_gallery.claims import claim

provenance, record = records.read(records.path_of("scaling.csv"))
print(textwrap.fill(records.provenance_line(provenance), 95))


def values(what, devices, arm):
    """The rounds of one arm: milliseconds of a step, or seconds until the first one."""
    chosen = (record["what"] == what) & (record["devices"] == devices) & (record["arm"] == arm)
    return record["value"][chosen]


steps = {}
for what, told in {"compute": "ready data", "input": "slow pipeline"}.items():
    for devices in (1, 2):
        arms = {arm: values(what, devices, arm) for arm in ("fit", "loop")}
        steps[what, devices] = arms
        medians = ", ".join(f"{arm} {np.median(each):.0f} ms" for arm, each in arms.items())
        print(f"{told}, {devices} device(s): {medians}")
start = {
    (arm, devices): values(f"start {arm}", devices, "start")
    for arm in ("fit", "loop")
    for devices in (1, 2)
}

# %%
# Logical devices share the processor: two of them do not make a step faster. What synchronized
# norms add on one to eight devices is on :doc:`plot_weak_scaling_to_1024_gpus`.

fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.6), layout="constrained")
places = [f"{told},\n{n} device{'s' * (n > 1)}" for told in ("ready", "slow") for n in (1, 2)]
for offset, arm, colour in ((-0.2, "fit", "C4"), (0.2, "loop", "C0")):
    medians = [np.median(arms[arm]) for arms in steps.values()]
    left.barh(np.arange(4) + offset, medians, 0.36, color=colour, label=arm)
left.set(title="A step", xlabel="milliseconds", ylabel="pipeline and devices")
left.set(yticks=range(4), yticklabels=places, ylim=(3.6, -0.6))
left.legend()
for offset, arm, colour in ((-0.2, "fit", "C4"), (0.2, "loop", "C0")):
    medians = [np.median(start[arm, devices]) for devices in (1, 2)]
    right.bar(np.array([1, 2]) + offset, medians, 0.36, color=colour, label=arm)
right.set(title="Until the first step", xlabel="devices", ylabel="seconds", xticks=(1, 2))
plt.show()

# %%
# Proof
# -----
# Medians of five rounds each, and the ratios.


def ratio(what, devices):
    """A step of the loop over one of ``fit``, medians of five rounds."""
    arms = steps[what, devices]
    return float(np.median(arms["loop"]) / np.median(arms["fit"]))


for (arm, devices), seconds in start.items():
    print(f"{arm}, {devices} device(s): {np.median(seconds):.1f} s until the first step is done")
told = "a step of the loop over one of fit"
claim("compute_1", ratio("compute", 1), f"{told}, ready data, one device", above=0.5, below=0.95)
claim("compute_2", ratio("compute", 2), f"{told}, ready data, two devices", above=0.8, below=1.2)
both = [ratio("input", devices) for devices in (1, 2)]
claim("input", both, f"{told}, slow pipeline, one and two devices", above=0.8, below=1.1)
claim("start_loop", start["loop", 1], "seconds until the first step, loop", above=1, below=60)
claim("start_fit", start["fit", 1], "seconds until the first step, fit", above=1, below=60)
assert len(values("compute", 1, "fit")) >= 5, "five rounds"
