"""
Which step's statistics does a tower on another device use?
===========================================================

**Those of the step before.** The code of the post "two towers" writes the batch's mean and variance
into variables and reads them back. With one tower and its variables on another device, it
normalizes by the mean of the step before in :claim:`40 <late>` of 40 steps, and in the first step
by mean 0 and variance 0. Two towers whose devices share memory use a mean of the present step in
all 40. So the number of GPUs is not the cause. The cause is the copy between two memories.

.. symptom:: worse on two GPUs
   :cause: TensorFlow 1: mean and variance come from different steps or towers
   :check: print the mean that was used beside the batch's, in one run
   :likelihood: seldom
   :question: 3
"""

# %%
# Check
# -----
# Which mean and variance a tower used can be worked out from what went into its layer and what came
# out, while γ is 1 and β is 0. So nothing is added to the graph that could change its order. The
# function compares the mean in units of the batch's deviation, and is silent below a hundredth.

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1
from bnref_gallery.claims import claim

v1 = tf.compat.v1

# %%


def moments_used(x, y, epsilon=1e-5):
    """Mean and variance that made y = (x - mean) / sqrt(variance + epsilon) of x."""
    deviation = x.std() / y.std(dtype="float64")
    return x.mean() - deviation * y.mean(dtype="float64"), deviation**2 - epsilon


def uses_another_mean(x, y):
    """Whether one channel x became y by a mean that is not its own."""
    mean, _ = moments_used(x, y)
    return bool(abs(mean - x.mean()) > 0.01 * x.std())


# %%
# Fix
# ---
# Look for ``tf.identity(variable)`` under a control dependency on the variable's assignment. Where
# the variable may be on another device, take the tensor that was assigned.
#
# Wrong
# ^^^^^


def what_the_variables_hold(x, variables):
    moments = tf.nn.moments(x, [0])
    writes = [
        v1.assign(variables[0], moments[0]),
        v1.assign(variables[1], moments[1]),
    ]
    with tf.control_dependencies(writes):
        return [tf.identity(each) for each in variables]


# %%
# Right
# ^^^^^


def what_was_assigned(x, variables):
    moments = tf.nn.moments(x, [0])
    writes = [
        v1.assign(variables[0], moments[0]),
        v1.assign(variables[1], moments[1]),
    ]
    with tf.control_dependencies(writes):
        return [tf.identity(each) for each in moments]


# %%
# Why
# ---
# It goes wrong at question 3 (used when): what was remembered a step before is used for the batch
# of this step. The control dependency holds back ``tf.identity`` on the tower's device, but not the
# copy that is sent to it, as :doc:`plot_two_towers_one_step_traced` shows. In shared memory there
# is no copy: the read finds what was written before it. There a tower may use the other's moments
# of the same step, which does little harm.
#
# What it does to a network is on :doc:`plot_two_towers`.
#
# Experiment
# ----------
# One layer normalizes one channel, and nothing is trained. At step t a tower is given values of
# mean 10 t, and the second tower 100 more. First method 1 of the post, in four arrangements.

METHOD_1, STEPS = tf1.stored_moments_norm, range(1, 41)
FIRST = {"variables": "with the first tower"}
ARRANGEMENTS = {
    "one tower, its own device": tf1.shared_memory(1, **FIRST),
    "one tower, another device": tf1.separate_memory(1),
    "two towers, shared memory": tf1.shared_memory(2, **FIRST),
    "two towers, separate memory": tf1.separate_memory(2, **FIRST),
}


def share(step, tower):
    """What a tower is given at a step."""
    random = np.random.default_rng([step, tower])
    return random.normal(10 * step + 100 * tower, 1 + step / 10, (2**18, 1))


def as_posted(x, training):
    return METHOD_1(x, training)


def observe(place, norm=as_posted):
    """Moments of the batches, and those used, both of shape (steps, towers, 2); and the check."""
    batch, used, fires = [], [], []
    with tf1.tensorflow_1():
        x, training = v1.placeholder(tf.float32, (None, 1)), v1.placeholder(tf.bool, ())
        outputs = tf1.on_towers(lambda x: norm(x, training), x, placement=place)
        with tf1.session(place) as session:
            session.run(v1.global_variables_initializer())
            for step in STEPS:
                xs = [share(step, tower) for tower in range(len(place.towers))]
                ys = session.run(outputs, {x: np.concatenate(xs), training: True})
                pairs = list(zip(xs, ys, strict=True))
                batch.append([(each.mean(), each.var()) for each in xs])
                used.append([moments_used(*pair) for pair in pairs])
                fires.append([uses_another_mean(*pair) for pair in pairs])
    return np.array(batch), np.array(used), np.array(fires)


seen = {name: observe(place) for name, place in ARRANGEMENTS.items()}

# %%
# Then the two functions of the fix, for one tower with its variables on another device.


def layer_of(moments):
    """A layer of one channel that normalizes by these moments."""

    def norm(x, training):
        variables = [
            v1.get_variable(name, 1, initializer=v1.zeros_initializer(), trainable=False)
            for name in ("mean", "variance")
        ]
        mean, variance = moments(x, variables)
        return (x - mean) / tf.sqrt(variance + 1e-5)

    return norm


FIX = {"wrong": layer_of(what_the_variables_hold), "right": layer_of(what_was_assigned)}
fixed = {name: observe(tf1.separate_memory(1), norm) for name, norm in FIX.items()}

# %%

fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.2), layout="constrained", sharex=True)
for ax, (name, (batch, used, _)) in zip(axes.flat, seen.items(), strict=True):
    for tower in range(batch.shape[1]):
        means, colour = batch[:6, tower, 0], f"C{tower}"
        ax.plot(range(1, 7), means, "o-", color=colour, mfc="none", ms=11, lw=1)
        ax.plot(range(1, 7), used[:6, tower, 0], "x", color=colour, ms=7, mew=2)
    ax.set(title=name, ylabel="mean of the channel")
plt.setp(axes[1], xlabel="step")
for tower, word in enumerate(["first", "second"]):
    style = {"color": f"C{tower}", "ls": "none"}
    axes[0, 0].plot([], marker="o", mfc="none", ms=11, label=f"{word} tower: its batch's", **style)
    axes[0, 0].plot([], marker="x", ms=7, mew=2, label=f"{word} tower: used", **style)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# A cross in its circle is a tower that used its own batch. In separate memory the second tower gets
# a copy that was made at any moment of the step. It may have the other's moments, those of the step
# before, or a mean and a variance of different batches. Of 40 steps, in how many:


def counts(batch, used, tower):
    """In how many steps the mean was its own, the other's, an earlier one, or did not match."""
    near = np.abs(batch[..., 0] - used[:, tower, :1]) < 0.01
    match = np.abs(batch[..., 1] - used[:, tower, 1:]) < 1e-3 * batch[..., 1]
    own, other, torn = near[:, tower], near.any(1) & ~near[:, tower], near.any(1)
    torn = torn & ~(near & match).any(1)
    return [int(each.sum()) for each in (own, other, ~near.any(1), torn)]


shares = {}
print(f"{'':38}own batch's  other's  earlier  mean and variance")
print(f"{'':38}mean         mean     mean     of different batches")
for name, (batch, used, _) in seen.items():
    for tower in range(batch.shape[1]):
        shares[name, tower] = counts(batch, used, tower)
        print(f"{name:28} tower {tower}" + "{:12} {:8} {:8} {:8}".format(*shares[name, tower]))

# %%
# Proof
# -----
# In how many steps each arrangement used what. On a busy machine a copy can be delayed, so that not
# all steps are late.


def steps_late(batch, used):
    """In how many steps one tower used mean and variance of the step before; 0 and 0 at first."""
    previous = np.concatenate([np.zeros((1, 1, 2)), batch[:-1]])
    return int(np.sum(np.abs(used - previous).max((1, 2)) < 0.01))


late = steps_late(*seen["one tower, another device"][:2])
claim("late", late, "steps of 40 with the moments of the step before", above=19)
assert shares["one tower, its own device", 0] == [40, 0, 0, 0], "on its own device: its own batch"
assert shares["one tower, another device", 0][2] >= 20, "elsewhere: an earlier mean"
for tower in (0, 1):
    earlier = shares["two towers, shared memory", tower][2]
    assert earlier == 0, f"in shared memory tower {tower} uses a mean of this step"
assert shares["two towers, separate memory", 0][2] == 0, "as does the tower with the variables"
assert shares["two towers, separate memory", 1][0] <= 30, "the other often gets another mean"
assert steps_late(*fixed["wrong"][:2]) >= 20, "the wrong function of the fix is late"
assert steps_late(*fixed["right"][:2]) == 0, "and the right one never"
assert fixed["wrong"][2].sum() >= 20, "the check fires on the wrong function"
assert not fixed["right"][2].any(), "and is silent on the right one, in all 40 steps"
assert not seen["one tower, its own device"][2].any(), "and where the variables are at hand"
