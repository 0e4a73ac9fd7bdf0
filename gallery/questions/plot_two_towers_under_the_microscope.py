"""
Which step's statistics does a tower on another device use?
===========================================================

**The previous step's.** With one tower and its variables on another device, method 1 of the post
"two towers" normalizes step *t* by the moments of step *t* − 1, and the first step by mean 0 and
variance 0. Two towers whose devices share memory always use moments of the present step. So the
number of GPUs is not the cause: it is the copy between two memories.

Question 3, *used when*, is answered wrongly: what was remembered a step before is used for this
step's batch. The whole story: :doc:`plot_two_towers`. Here one layer normalizes one channel, and
nothing is trained; what a tower used is worked out from what came out of the layer, so nothing is
added to the graph that could change its order.

.. symptom:: worse on two GPUs
   :cause: TensorFlow 1: mean and variance come from different steps or towers
   :check: print the mean that was used beside the batch's, in one run
   :likelihood: seldom
   :question: 1
"""

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1

v1 = tf.compat.v1
METHOD_1, STEPS = tf1.stored_moments_norm, range(1, 41)


def share(step, tower):
    """What a tower is given at step t: mean about 10 t, for the second tower 100 more."""
    random = np.random.default_rng([step, tower])
    return random.normal(10 * step + 100 * tower, 1 + step / 10, (2**18, 1))


def moments_used(x, y):
    """Mean and variance that made y = (x - mean) / sqrt(variance + 1e-5) of x."""
    deviation = x.std() / y.std(dtype="float64")
    return x.mean() - deviation * y.mean(dtype="float64"), deviation**2 - 1e-5


def observe(place):
    """Moments of the batches, and those used: both of shape (steps, towers, 2)."""
    with tf1.tensorflow_1():
        x, training = v1.placeholder(tf.float32, (None, 1)), v1.placeholder(tf.bool, ())
        outputs = tf1.on_towers(lambda x: METHOD_1(x, training), x, placement=place)
        batch, used = [], []
        with tf1.session(place) as session:
            session.run(v1.global_variables_initializer())
            for step in STEPS:
                xs = [share(step, tower) for tower in range(len(place.towers))]
                ys = session.run(outputs, {x: np.concatenate(xs), training: True})
                batch.append([(each.mean(), each.var()) for each in xs])
                used.append([moments_used(*pair) for pair in zip(xs, ys, strict=True)])
    return np.array(batch), np.array(used)


FIRST = {"variables": "with the first tower"}
seen = {
    "one tower, its own device": observe(tf1.shared_memory(1, **FIRST)),
    "one tower, another device": observe(tf1.separate_memory(1)),
    "two towers, shared memory": observe(tf1.shared_memory(2, **FIRST)),
    "two towers, separate memory": observe(tf1.separate_memory(2, **FIRST)),
}
fig, axes = plt.subplots(2, 2, figsize=(6.2, 6), layout="constrained", sharex=True)
for ax, (name, (batch, used)) in zip(axes.flat, seen.items(), strict=True):
    for tower in range(batch.shape[1]):
        means, colour = batch[:6, tower, 0], f"C{tower}"
        ax.plot(range(1, 7), means, "o-", color=colour, mfc="none", ms=11, lw=1)
        ax.plot(range(1, 7), used[:6, tower, 0], "x", color=colour, ms=7, mew=2)
    ax.set_title(name)
plt.setp(axes[1], xlabel="step")
plt.setp(axes[:, 0], ylabel="mean of the channel")
for tower, word in enumerate(["first", "second"]):
    style = {"color": f"C{tower}", "ls": "none"}
    axes[0, 0].plot([], marker="o", mfc="none", ms=11, label=f"{word} tower: its batch's", **style)
    axes[0, 0].plot([], marker="x", ms=7, mew=2, label=f"{word} tower: used", **style)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# A cross in its circle is a tower that used its own batch. In shared memory a tower may use the
# other's moments of the same step, which does little harm. In separate memory the second tower gets
# a copy, made at any moment of the step: it may have the other's moments, the previous step's, or
# a mean and a variance of different batches. Of 40 steps, in how many:

shares = {}
print(f"{'':38}own batch's  other's  earlier  mean and variance")
print(f"{'':38}mean         mean     mean     of different batches")
for name, (batch, used) in seen.items():
    for tower in range(batch.shape[1]):
        near = np.abs(batch[..., 0] - used[:, tower, :1]) < 0.01
        match = np.abs(batch[..., 1] - used[:, tower, 1:]) < 1e-3 * batch[..., 1]
        torn = near.any(1) & ~(near & match).any(1)
        own = near[:, tower]
        kinds = own, near.any(1) & ~own, ~near.any(1), torn
        shares[name, tower] = counts = [int(each.sum()) for each in kinds]
        print(f"{name:28} tower {tower}" + "{:12} {:8} {:8} {:8}".format(*counts))

# %%
# In your own graph
# -----------------
# Look for ``tf.identity(variable)`` under a control dependency on the variable's assignment. Where
# the variable may be on another device, use the tensor that was assigned. Why the dependency does
# not help: :doc:`plot_two_towers_one_step_traced`.
#
# Conclusion
# ----------

(batch, used), late = seen["one tower, another device"], shares["one tower, another device", 0]
previous = np.concatenate([np.zeros((1, 1, 2)), batch[:-1]])
error = np.abs(used - previous).max((1, 2))
print(
    f"one tower, another device: the previous step's moments in {np.sum(error < 0.01)} of 40 steps"
)
assert list(shares["one tower, its own device", 0]) == [40, 0, 0, 0]
assert late[2] >= 20 and np.sum(error < 0.01) >= 20, "not all, where a busy machine delays a copy"
present = [("two towers, shared memory", 0), ("two towers, shared memory", 1)]
for which in [*present, ("two towers, separate memory", 0)]:
    assert shares[which][2] == 0, "always a mean of this step"
assert shares["two towers, separate memory", 1][0] <= 30, "the other one often gets another mean"
