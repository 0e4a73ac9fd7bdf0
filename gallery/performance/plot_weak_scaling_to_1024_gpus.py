"""
How far does synchronized batch norm scale? On paper, to 1,024 GPUs
===================================================================

On paper, a ResNet-50 with 64 images a GPU keeps :claim:`100 % <own>` of each GPU's speed on 1,024
GPUs where every replica normalizes by its own batch, as the gradients are summed while the way back
goes on. With synchronized norms it keeps :claim:`58 % <synchronized>`. Bytes are not the reason, as
a norm sends some kB: twice a norm, 106 times a step, all wait for the links and for the slowest of
all. If groups of 16 synchronize among themselves, it is :claim:`78 % <groups>`.

The formulas are below, so that you can put in your own numbers. They are held against a simulation,
and against steps that were measured on one to eight logical devices.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from bnref_gallery import records
from bnref_gallery.claims import claim

# %%
# What is assumed
# ---------------
# A GPU that takes 25 ms for the step of 64 images, two thirds of it for the way back; links with 5
# µs for a message and 20 GB/s; and between two collectives each GPU is late by 10 µs on average,
# exponentially distributed: other work, memory, clocks.

COMPUTE, BACKWARD = 25e-3, 2 / 3  # seconds, and its share for the way back
LATENCY, BANDWIDTH = 5e-6, 20e9  # seconds a message, bytes a second
LATE = 10e-6  # seconds, a mean, between two collectives
WEIGHTS = 4 * 25.6e6  # bytes of ResNet-50's gradients in float32
CHANNELS = 26_560 / 53  # a norm, on average: 53 norms have 26,560 channels
NORMS = 53
GPUS = 2 ** np.arange(11)


# %%
# Gradients
# ---------
# A ring of R sums b bytes by 2(R − 1) messages of b/R bytes, one after the other. The sum of the
# gradients can begin while the way back goes on, and only what does not fit beside it is seen:
#
# .. math:: t_g = 2(R - 1)\Big(\alpha + \frac{b}{R B}\Big), \qquad
#           \text{seen: } \max\big(0,\; t_g - \tfrac23 t_c\big) .
#
# That is the same for every kind of norm. 1,024 GPUs in one ring would take 2,046 messages; beyond
# 16 a ring of rings is used, which is 2(15 + R/16 − 1) messages.


def seconds_of_a_ring(replicas, size):
    return 2 * (replicas - 1) * (LATENCY + size / replicas / BANDWIDTH)


def seconds_of_gradients(replicas):
    """What is seen of the sum of all gradients, in rings of 16 and a ring of these."""
    inner = min(replicas, 16)
    total = seconds_of_a_ring(inner, WEIGHTS)
    total += seconds_of_a_ring(replicas / inner, WEIGHTS / inner)
    return max(0.0, total - BACKWARD * COMPUTE)


# %%
# Synchronized norms
# ------------------
# A norm needs one collective on the way forward (count, mean and variance of each replica) and one
# on the way back (two sums): see :doc:`plot_collectives_of_synchronized_layers`. Nothing can be
# done meanwhile, since the next layer needs the result. Small sums go through a tree, in 2 log₂ R
# messages. Before it can begin, it waits for the slowest of R, which is late by the harmonic number
# of R times the mean, where one GPU alone is late by the mean:
#
# .. math:: t_n = 2 \cdot 53 \,\Big( 2 \log_2 R \,\big(\alpha + \tfrac{b}{B}\big)
#           + \tau\,(H_R - 1)\Big), \qquad H_R = \sum_{r=1}^R \frac1r .


def harmonic(replicas):
    return np.sum(1 / np.arange(1, replicas + 1))


def seconds_of_norms(replicas):
    """What all norms wait in a step, where so many replicas synchronize."""
    message = LATENCY + 8 * CHANNELS / BANDWIDTH
    waiting = 2 * np.log2(replicas) * message
    return 2 * NORMS * (waiting + LATE * (harmonic(replicas) - 1))


def speed(replicas, synchronized):
    """The share of its own speed that each GPU keeps, where groups of so many synchronize."""
    late = seconds_of_norms(min(replicas, synchronized))
    return COMPUTE / (COMPUTE + seconds_of_gradients(replicas) + late)


# %%
# The simulation
# --------------
# Each GPU's lateness is drawn for each of the 106 stretches. Synchronized, each stretch takes as
# long as the slowest of it; unsynchronized, the step takes as long as the slowest sum.

random = np.random.default_rng(0)


def simulated(replicas, steps=20):
    """Seconds of lateness in a step, above that of one GPU: synchronized, and not."""
    late = random.exponential(LATE, (steps, 2 * NORMS, replicas))
    alone = 2 * NORMS * LATE
    each_stretch = late.max(axis=2).sum(axis=1).mean() - alone
    whole_step = late.sum(axis=1).max(axis=1).mean() - alone
    return each_stretch, whole_step


drawn = np.array([simulated(replicas) for replicas in GPUS])
formula = np.array([2 * NORMS * LATE * (harmonic(replicas) - 1) for replicas in GPUS])

# %%
# What was measured
# -----------------
# Steps of a network of eight dense layers with 0, 4 and 8 synchronized norms, on one to eight
# logical devices of one processor, which run one after the other on few cores. By the formula each
# norm adds the same: what 8 add is twice what 4 add.

provenance, record = records.read(records.path_of("scaling.csv"))


def recorded(what):
    """Milliseconds of a step by the number of devices, medians of the rounds."""
    rows = record["what"] == what
    found = []
    for number in (1, 2, 4, 8):
        found.append(np.median(record["value"][rows & (record["devices"] == number)]))
    return np.array(found)


none, four, eight = (recorded(f"norms {count}") for count in (0, 4, 8))
predicted = none + 2 * (four - none)
print(textwrap.fill(records.provenance_line(provenance), 95))

# %%

fig, axes = plt.subplots(1, 3, figsize=(6.2, 3.6), layout="constrained")
paper, lateness, steps = axes
for name, group, style in (
    ("each its own", 1, "C4o-"), ("groups of 16", 16, "C2s-"), ("all synchronized", 1024, "C0x-"),
):  # fmt: skip
    paper.semilogx(GPUS, [speed(each, group) for each in GPUS], style, base=2, ms=4, label=name)
paper.set(title="Speed of each GPU", xlabel="GPUs", ylabel="share of one's own", ylim=(0, 1.02))
lateness.semilogx(GPUS, 1000 * formula, "C0-", base=2, label="formula")
lateness.semilogx(GPUS, 1000 * drawn[:, 0], "C0x", base=2, label="simulated")
lateness.semilogx(GPUS, 1000 * drawn[:, 1], "C4o", base=2, ms=4, label="not synchronized")
lateness.set(title="Waiting for the slowest", xlabel="GPUs", ylabel="ms a step", ylim=(-0.3, 9.5))
steps.plot((1, 2, 4, 8), eight, "C0x-", label="8 norms, measured")
steps.plot((1, 2, 4, 8), predicted, "C1:", label="from 0 and 4")
steps.plot((1, 2, 4, 8), none, "C4o-", ms=4, label="no norm")
steps.set(title="Measured", xlabel="logical devices", ylabel="ms a step", ylim=(0, 24))
steps.set(xticks=(1, 2, 4, 8))
for ax in axes:
    ax.legend(fontsize="x-small")
plt.show()

# %%
# What follows
# ------------
# `pytorch/pytorch#39358 <https://github.com/pytorch/pytorch/issues/39358>`_ reports a step twice as
# long as ideal on several nodes, `horovod/horovod#2450
# <https://github.com/horovod/horovod/issues/2450>`_ a forward pass of four times the length.
# Synchronize in groups that are near each other, of such a size that a group has some hundred
# values a channel; more gain nothing (:doc:`/gallery/variants/plot_batch_size_per_replica`).
# ``tf.distribute`` has no groups below a strategy: with as many images a GPU that no
# synchronization is needed, the question does not arise.
#
# Proof
# -----
# Formula, simulation and measurement.

for replicas in (8, 64, 1024):
    shares = [speed(replicas, group) for group in (1, 16, 1024)]
    print(
        f"{replicas:5} GPUs: own {shares[0]:.2f}, groups of 16 {shares[1]:.2f}, all {shares[2]:.2f}"
    )
claim("own", speed(1024, 1), "speed kept on 1,024 GPUs, each its own", above=0.8, below=1.01)
claim("synchronized", speed(1024, 1024), "speed kept, all synchronized", above=0.4, below=0.9)
claim("groups", speed(1024, 16), "speed kept, groups of 16", above=0.7, below=1.0)
assert np.allclose(drawn[3:, 0], formula[3:], rtol=0.05), "the simulation gives the formula"
assert (drawn[3:, 1] < formula[3:] / 2).all(), "without synchronization less than half is waited"
for number, was, said in zip((1, 2, 4, 8), eight, predicted, strict=True):
    print(f"{number} devices: a step with 8 norms {was:.2f} ms, from 0 and 4 norms {said:.2f} ms")
claim("measured", predicted / eight, "predicted over measured, 8 norms", above=0.6, below=1.6)
assert (np.diff(eight) > 0).all(), "each doubling of the devices costs"
