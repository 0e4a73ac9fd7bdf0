"""
The average races with the assignment: it takes this step's moments or the last one's
=====================================================================================

In method 1 of :doc:`two towers </gallery/questions/plot_two_towers>` nothing says whether the
average is updated before or after the batch's moments are assigned. It takes the previous step's
**in most steps** where the tower has memory of its own; where memory is shared, one or the other as
the race falls. The cost is a step of lag, and no more: the average trails a mean that moves by d in
a step by **d/(1 − ρ)** instead of dρ/(1 − ρ). At decay 0.5 it is twice as late, at 0.99 one part in
99. What the first step takes as the previous one's are zeros.

The symptom: two runs of one program leave different averages. The question answered wrongly is the
second, *remembered how*. A control dependency repairs it only where the average reads the variable
on the variable's own device; what always helps is to average the moments themselves.

.. symptom:: validation jumps
   :cause: TensorFlow 1: the average reads a variable that is being assigned
   :check: compare an average after one step with ρP + (1 − ρ)B
   :likelihood: seldom
   :question: 2
"""

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1

v1 = tf.compat.v1
DECAY = 0.5

# %%
# ``apply`` subtracts (1 − ρ)(average − variable) from the average. In TensorFlow 2.21 the tower's
# device computes that, and the variable's value leaves for there when the step begins: a control
# dependency holds back the subtraction, not the copy. TensorFlow 1.1 computed it on the variable's
# device; there the dependency is enough.


def ordered(x, there=False):  # right where there is True; else only in shared memory
    moment, mean = v1.get_variable("moment", initializer=[0.0]), tf.reduce_mean(x, 0)
    device = moment.device if there else ""
    with v1.device(device), tf.control_dependencies([v1.assign(moment, mean)]):
        return v1.train.ExponentialMovingAverage(DECAY).apply([moment])


def of_the_moments(x):  # right, and without a variable in between
    average, mean = v1.get_variable("average", initializer=[0.0]), tf.reduce_mean(x, 0)
    return v1.assign_sub(average, (1 - DECAY) * (average - mean))


UPDATES = {
    "method 1": lambda x: tf1.stored_moments_norm(x, tf.constant(True), decay=DECAY),
    "after the assignment": ordered,
    "and on its device": lambda x: ordered(x, there=True),
    "of the moments": of_the_moments,
}


def averages(update, place, means):
    placement = place(1)
    with tf1.tensorflow_1():
        x = v1.placeholder(tf.float32, (64, 1))
        updated = tf1.on_towers(update, x, placement=placement)
        average = [each for each in v1.global_variables() if "var" not in each.op.name][-1]
        with tf1.session(placement) as session:
            session.run(v1.global_variables_initializer())
            feeds = ({x: np.full((64, 1), mean)} for mean in means)
            return np.array([(session.run(updated, f), session.run(average)[0])[1] for f in feeds])


# %%
# What a step took is (P after − ρ P before)/(1 − ρ): this batch's mean, or the previous one's?


def shares(update, place, seed):
    means = np.random.default_rng(seed).normal(0, 1000, 60)
    after = averages(update, place, means)
    took = (after - DECAY * np.append(0, after[:-1])) / (1 - DECAY)
    return [np.mean(np.abs(took - each) < 0.1) for each in (means, np.append(0, means[:-1]))]


def measured(place):
    return np.array(
        [[shares(update, place, run) for run in range(3)] for update in UPDATES.values()]
    )


found = {"separate": measured(tf1.separate_memory), "shared": measured(tf1.shared_memory)}
steps = np.arange(1, 21)
late, right = (
    averages(UPDATES[name], tf1.separate_memory, 10 * steps)
    for name in ("method 1", "of the moments")
)

fig, (top, bottom) = plt.subplots(2, figsize=(6.2, 5.4), layout="constrained")
for (memory, values), style in zip(found.items(), ("XC1", "oC0"), strict=True):
    top.plot(values[..., 0], list(UPDATES), style, ms=8, label=[f"{memory} memory", "", ""])
top.set(title="Share of steps that took this step's moments", ylim=(3.5, -0.5))
top.legend()
bottom.plot(steps, 10 * steps, ":", color="#555555", label="mean of the batch")
bottom.plot(steps, late, "X-C1", ms=4, label="average, method 1")
bottom.plot(steps, right, "o-C0", ms=4, label="average of the moments")
bottom.set(xlabel="step", title="Lag, separate memory", xticks=range(0, 21, 5))
bottom.legend()
plt.show()

# %%
# To check your own model, feed it batches of known mean and compute what a step took, as above.
# Today :class:`bnref.layers.BatchNorm` and Keras's layers average the moments themselves.
#
# Conclusion
# ----------

for memory, values in found.items():
    for name, share in zip(UPDATES, values[..., 0].round(2), strict=True):
        print(f"{memory} memory, {name}: this step's moments in {share}")
    assert np.abs(values.sum(-1) - 1).max() < 0.01, "one or the other, and nothing else"
    assert values[2:, :, 0].min() == 1, "always this step's"
assert found["separate"][:2, :, 1].mean(1).min() > 0.5 and found["shared"][1, :, 0].min() == 1
lags = [(10 * steps - each)[-8:].mean() for each in (late, right)]
print("lags at 10 a step:", np.round(lags, 2))
assert abs(lags[1] - 10) < 0.1 and 14 < lags[0] < 20.1
