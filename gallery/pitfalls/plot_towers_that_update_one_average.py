"""
Towers that update one average lose updates, or drive it out of all bounds
==========================================================================

If R towers read one moving average of decay ρ before any of them writes, the old value is
multiplied by **1 − R(1 − ρ)** instead of ρ: the average oscillates if R(1 − ρ) exceeds 1 and
diverges if it exceeds 2. With ``assign_moving_average`` of TensorFlow 2.21, 8 towers and decay 0.5
the factor is **−3**, and the average of inputs of mean 10 leaves the range from 0 to 20. Method 2
of :doc:`two towers </gallery/questions/plot_two_towers>` loses one of two updates, in most steps.

The symptom: inference is the worse the more towers there are, or gives NaN where a variance became
negative, though training is good. The question answered wrongly is the second, *remembered how*.

.. symptom:: worse on two GPUs
   :cause: each tower updates one average
   :check: compare an average after one step with ρP + (1 − ρ)B, B the mean of the towers' moments
   :likelihood: sometimes
   :question: 2

.. symptom:: NaN or infinity
   :cause: R racing updates multiply the average by 1 − R(1 − ρ), until a variance is negative
   :check: ``R * (1 - momentum) > 2``
   :likelihood: seldom
   :question: 2
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tensorflow.python.training.moving_averages import assign_moving_average

import bnref
from bnref import doctor, tf1

v1 = tf.compat.v1

# %%
# Tower r subtracts (1 − ρ)(P − Bᵣ) from the average P; Bᵣ is the moment of its batch. If each tower
# reads what the one before it wrote, P is multiplied by ρᴿ; if all subtract from one reading,
#
# .. math:: P \leftarrow \big(1 - R(1-\rho)\big)\, P + (1-\rho) \sum_r B_r
#
# Method 2 assigns ρP + (1 − ρ)Bᵣ: from one reading, the last one alone counts. One reading, forced:


def forced(towers, decay, steps=1):
    with tf1.tensorflow_1(), tf1.session(tf1.shared_memory(1)) as session:
        average, moment = v1.Variable(1.0), 0.0
        changes = [(1 - decay) * (average - moment) for _ in range(towers)]
        with tf.control_dependencies(changes):  # all have read before one subtracts
            update = [v1.assign_sub(average, each, use_locking=True) for each in changes]
        session.run(v1.global_variables_initializer())
        return [(session.run(update), session.run(average))[1] for _ in range(steps)]


R = np.array([1, 2, 4, 6, 8])
factors = {decay: np.ravel([forced(towers, decay) for towers in R]) for decay in (0.5, 0.9, 0.99)}

# %%
# Then it is left to chance, on devices with memory of their own, so that these figures change from
# one build and one machine to the next; each tower's batch is one number.
# Method 3 calls ``assign_moving_average``. In the post's TensorFlow 1.1 that computed the change on
# P's device, where hardly any time passes between reading and writing. Today it does so on the
# tower's, from a copy of P made when the step begins, unless called in ``v1.device(P.device)``.


def today(x, training, decay):  # wrong
    average, mean = v1.get_variable("mean", initializer=[0.0]), tf.reduce_mean(x, 0)
    return assign_moving_average(average, mean, decay, zero_debias=False)


METHODS = {"2": tf1.METHODS[2], "3, today": today, "3, as in 1.1": tf1.METHODS[3]}
random = np.random.default_rng(0)


def chance(norm, decay, batches):
    placement = tf1.separate_memory(batches.shape[1])
    with tf1.tensorflow_1():
        x = v1.placeholder(tf.float32, (batches.shape[1], 1))
        tower = partial(norm, training=tf.constant(True), decay=decay)
        update = tf1.on_towers(tower, x, placement=placement)
        average = next(each for each in v1.global_variables() if "mean" in each.op.name)
        with tf1.session(placement) as session:
            session.run(v1.global_variables_initializer())
            feeds = ({x: batch[:, None]} for batch in batches)
            after = [(session.run(update, feed), session.run(average)[0])[1] for feed in feeds]
    return np.array([0, *after])


def shares(norm, decay=0.9):
    """How often two towers follow each other, one update is lost, both read the same."""
    batches = random.normal(0, 1000, (120, 2))
    values = chance(norm, decay, batches)
    before, after, (b0, b1) = values[:-1], values[1:], (1 - decay) * batches.T
    first = decay * before + b0, decay * before + b1
    cases = (decay * first[0] + b1, decay * first[1] + b0), first, [sum(first) - before]
    return [np.isclose(case, after, rtol=0, atol=0.002).any(0).mean() for case in cases]


found = {name: shares(norm) for name, norm in METHODS.items()}
traces = {name: chance(n, 0.5, random.normal(10, 1, (40, 8))) for name, n in METHODS.items()}
fig, axes = plt.subplot_mosaic("ab;cc", figsize=(6.2, 5.6), layout="constrained")
axes["a"].set(title="Factor of the old value", xlabel="towers, R")
for decay, factor in factors.items():
    axes["a"].plot(R, 1 - R * (1 - decay), color="#aaaaaa", lw=1)
    axes["a"].plot(R, factor, "o", label=f"ρ = {decay}")
axes["b"].set(title="P forced, ρ = 0.5", xlabel="step", ylim=(-9, 6))
for towers in (1, 3, 5):
    axes["b"].plot([1, *forced(towers, 0.5, steps=6)], "o-", ms=4, label=f"R = {towers}")
axes["c"].set(title="P left to chance, R = 8, ρ = 0.5, inputs of mean 10", yscale="symlog")
axes["c"].set(xlabel="step", yticks=[-1e10, -1e5, -10, 10, 1e5, 1e10])
for (name, trace), style in zip(traces.items(), (".-C4", ".-C3", "--k"), strict=True):
    axes["c"].plot(trace, style, label="method " + name)
for ax in axes.values():
    ax.legend(loc="lower left")
plt.show()

# %%
# To check your own model, compare an average after a step with ρP + (1 − ρ)B, B the mean of the
# towers' moments. The fix: average the moments and update once (to the variance, add that of the
# means), or run the updates of one tower: ``tf.get_collection("update_ops", scope="tower_0")``.
# That a population has a negative variance, of whatever origin, says
# ``bnref.doctor.examine(model, data, only=["impossible_population"])``.
#
# Conclusion
# ----------

for name, cases in found.items():
    print(f"method {name}, two towers: in turn, one lost, one reading", np.round(cases, 2))
    print(f"eight towers: average from {traces[name].min():.3g} to {traces[name].max():.3g}")
    assert abs(sum(cases) - 1) < 0.05  # no step did anything else; how often is up to the machine
assert np.allclose([*factors.values()], [1 - R * (1 - decay) for decay in factors], atol=1e-5)
assert np.abs(traces["3, today"] - 10).max() > 10 > np.abs(traces["2"][9:] - 10).max()
assert min(found["2"][1], found["3, today"][2]) > 1 / 4


def told(towers):
    """What the doctor says of a Keras model that is given the variance after one step."""
    model = keras.Sequential([keras.Input((1,)), bnref.BatchNorm()])
    model.layers[0].moving_variance.assign(forced(towers, decay=0.5))
    report = doctor.examine(model, random.normal(size=(64, 1)), only=["impossible_population"])
    return [finding.evidence for finding in report.findings]


evidence = told(towers=5)
print("the doctor, of five towers:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not told(towers=1), "and is silent on the right one"
