"""
The average races with the assignment: it takes this step's moments or the last one's
=====================================================================================

Some TensorFlow 1 code first assigns the batch's moments to a variable and then updates a moving
average of that variable, as method 1 of :doc:`two towers </gallery/questions/plot_two_towers>`
does. Nothing says which of the two happens first. Where the device that computes (the tower)
has memory of its own, the average took the previous step's moments in :claim:`100 % <late_steps>`
of the steps. The cost is a step of lag and no more: behind a mean that rises by 10 in each step,
the average stays :claim:`20 <lag_wrong>` behind in place of :claim:`10 <lag_right>`, at a decay of
0.5.

.. symptom:: validation jumps
   :cause: TensorFlow 1: the average reads a variable that is being assigned
   :check: compare an average after one step with ρP + (1 − ρ)B
   :likelihood: seldom
   :question: 2
"""

# %%
# Check
# -----
# Feed your program batches of known mean. ``taken_by_a_step`` computes from the average before and
# after a step what the step took: it has to be the mean of this step's batch.

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1
from bnref_gallery.claims import claim

v1 = tf.compat.v1
DECAY = 0.5


def taken_by_a_step(before, after, decay):
    return (after - decay * before) / (1 - decay)


# %%
# Fix
# ---
# Average the moments themselves, with no variable in between. A control dependency on the
# assignment is enough only where the average is computed on the variable's own device.
#
# Wrong
# ^^^^^


def average_of_a_variable(x):
    moment = v1.get_variable("moment", initializer=[0.0])
    assigned = v1.assign(moment, tf.reduce_mean(x, 0))
    with tf.control_dependencies([assigned]):
        average = v1.train.ExponentialMovingAverage(DECAY)
        return average.apply([moment])


# %%
# Right
# ^^^^^


def average_of_the_moments(x):
    average = v1.get_variable("average", initializer=[0.0])
    mean = tf.reduce_mean(x, 0)
    return v1.assign_sub(average, (1 - DECAY) * (average - mean))


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): two runs of one program can leave two averages.
# ``apply`` subtracts (1 − ρ)(average − variable) from the average. In TensorFlow 2.21 the tower's
# device computes that, and the variable's value leaves for there when the step begins: a control
# dependency holds back the subtraction, and not the copy. TensorFlow 1.1 computed it on the
# variable's device; there the dependency is enough. ``ExponentialMovingAverage`` is innocent.
#
# Behind a mean that moves by d in each step, an average of decay ρ lags by dρ/(1 − ρ). With the
# previous step's moments it lags by d/(1 − ρ): at a decay of 0.5 that is twice as much, at 0.99 one
# part in 99 more. What the first step takes as the previous step's moments are zeros.
#
# Today :class:`bnref.layers.BatchNorm` and Keras's layers average the moments themselves.
#
# Experiment
# ----------
# Four ways to update, on a tower whose device shares the variables' memory, and on one that does
# not. The batches have random means, so that what a step took tells which batch it was of.


def method_1(x):
    return tf1.stored_moments_norm(x, tf.constant(True), decay=DECAY)


def average_on_its_device(x):
    moment = v1.get_variable("moment", initializer=[0.0])
    with (
        v1.device(moment.device),
        tf.control_dependencies([v1.assign(moment, tf.reduce_mean(x, 0))]),
    ):
        return v1.train.ExponentialMovingAverage(DECAY).apply([moment])


UPDATES = {
    "method 1": method_1,
    "after the assignment": average_of_a_variable,
    "and on its device": average_on_its_device,
    "of the moments": average_of_the_moments,
}


def averages(update, place, means):
    """The average after each step, of batches with these means."""
    placement, after = place(1), []
    with tf1.tensorflow_1():
        x = v1.placeholder(tf.float32, (64, 1))
        updated = tf1.on_towers(update, x, placement=placement)
        average = [each for each in v1.global_variables() if "var" not in each.op.name][-1]
        with tf1.session(placement) as session:
            session.run(v1.global_variables_initializer())
            for mean in means:
                session.run(updated, {x: np.full((64, 1), mean)})
                after.append(session.run(average)[0])
    return np.array(after)


# %%
# The share of steps that took this step's moments, and the share that took the previous one's.


def shares(update, place, seed):
    means = np.random.default_rng(seed).normal(0, 1000, 60)
    after = averages(update, place, means)
    before, previous = np.append(0, after[:-1]), np.append(0, means[:-1])
    took = taken_by_a_step(before, after, DECAY)
    return [np.mean(np.abs(took - each) < 0.1) for each in (means, previous)]


def measured(place):
    """Shares, by update, run, and which step's."""
    return np.array([[shares(each, place, run) for run in range(3)] for each in UPDATES.values()])


found = {"separate": measured(tf1.separate_memory), "shared": measured(tf1.shared_memory)}
steps = np.arange(1, 21)
late = averages(method_1, tf1.separate_memory, 10 * steps)
right = averages(average_of_the_moments, tf1.separate_memory, 10 * steps)

# %%

fig, (top, bottom) = plt.subplots(2, figsize=(6.2, 5.4), layout="constrained")
for (memory, values), style in zip(found.items(), ("XC1", "oC0"), strict=True):
    top.plot(values[..., 0], list(UPDATES), style, ms=8, label=[f"{memory} memory", "", ""])
top.set(title="Share of steps that took this step's moments", ylabel="way to update")
top.set(ylim=(3.5, -0.5))
top.legend()
bottom.plot(steps, 10 * steps, ":", color="#555555", label="mean of the batch")
bottom.plot(steps, late, "X-C1", ms=4, label="average, method 1")
bottom.plot(steps, right, "o-C0", ms=4, label="average of the moments")
bottom.set(xlabel="step", ylabel="mean", title="Lag, separate memory", xticks=range(0, 21, 5))
bottom.legend()
plt.show()

# %%
# Proof
# -----
# Which step's moments were taken, and what that costs.

for memory, values in found.items():
    for name, share in zip(UPDATES, values[..., 0].round(2), strict=True):
        print(f"{memory} memory, {name}: this step's moments in {share}")
    assert np.abs(values.sum(-1) - 1).max() < 0.01, "each step took one or the other, nothing else"
    assert values[2:, :, 0].min() == 1, "on the variable's device, and of the moments: this step's"
separate, shared = found["separate"], found["shared"]
claim("late_steps", separate[0, :, 1], "share of steps late, method 1", above=0.5, of="mean")
claim("ordered", separate[1, :, 1], "share late, after the assignment", above=0.5, of="mean")
assert shared[1, :, 0].min() == 1, "in shared memory the dependency is enough"
last = slice(-8, None)
claim("lag_wrong", (10 * steps - late)[last].mean(), "lag, method 1", above=14, below=20.1)
claim("lag_right", (10 * steps - right)[last].mean(), "lag, of the moments", above=9.9, below=10.1)
