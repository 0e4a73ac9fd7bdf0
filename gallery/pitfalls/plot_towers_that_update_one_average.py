"""
Towers that update one average lose updates, or drive it out of all bounds
==========================================================================

In TensorFlow 1 several towers, copies of one network on several devices, often update one moving
average. If all read it before any of them writes, its old value is multiplied by 1 − R(1 − ρ), for
R towers and decay ρ. With 8 towers and decay 0.5 that is :claim:`-3 <factor_8>`: the average of
inputs of mean 10 leaves all bounds. With ``assign_moving_average`` of TensorFlow 2.21 and two
towers it happens in :claim:`98 % <one_reading>` of the steps. Method 2 of :doc:`two towers
</gallery/questions/plot_two_towers>` loses one of two updates in :claim:`92 % <one_lost>`.

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

# %%
# Check
# -----
# Feed the towers batches of known means and look at the average after one step. A variance
# that is already negative is found once it is in a Keras model, by
# ``doctor.examine(model, data, only=["impossible_population"])``.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tensorflow.python.training.moving_averages import assign_moving_average

import bnref
from bnref import doctor, tf1
from bnref_gallery.claims import claim

v1 = tf.compat.v1

# %%
# Fix
# ---
# Average the towers' moments and update once; to the mean of the variances add the variance of the
# means. Or run the updates of one tower: ``tf.get_collection("update_ops", scope="tower_0")``.
#
# Wrong
# ^^^^^


def updates_of_all_towers(average, means, decay):
    updates = []
    for mean in means:
        update = assign_moving_average(average, mean, decay, zero_debias=False)
        updates.append(update)
    return tf.group(*updates)


# %%
# Right
# ^^^^^


def one_update(average, means, decay):
    together = tf.add_n(means) / len(means)
    return v1.assign_sub(average, (1 - decay) * (average - together))


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how). Tower r subtracts (1 − ρ)(P − Bᵣ) from the average
# P; Bᵣ is the moment of its batch. If each tower reads what the one before it wrote, P is
# multiplied by ρᴿ. If all subtract from one reading,
#
# .. math:: P \leftarrow \big(1 - R(1-\rho)\big)\, P + (1-\rho) \sum_r B_r
#
# It oscillates where R(1 − ρ) exceeds 1 and diverges where it exceeds 2. Method 2 assigns
# ρP + (1 − ρ)Bᵣ: from one reading, the last one alone counts. Even in turn the memory is shorter
# than it was meant, by ρᴿ in place of ρ.
#
# In the post's TensorFlow 1.1 ``assign_moving_average`` computed the change on P's device, where
# hardly any time passes between reading and writing. Today it does so on the tower's device, from a
# copy of P made when the step begins, unless it is called in ``v1.device(P.device)``.
#
# Experiment
# ----------
# One reading, forced: all towers have read before one subtracts.


def forced(towers, decay, steps=1):
    """The average after each step; it begins at 1, and the moments are 0."""
    after = []
    with tf1.tensorflow_1(), tf1.session(tf1.shared_memory(1)) as session:
        average, moment = v1.Variable(1.0), 0.0
        changes = [(1 - decay) * (average - moment) for _ in range(towers)]
        with tf.control_dependencies(changes):
            update = [v1.assign_sub(average, each, use_locking=True) for each in changes]
        session.run(v1.global_variables_initializer())
        for _ in range(steps):
            session.run(update)
            after.append(session.run(average))
    return after


R = np.array([1, 2, 4, 6, 8])
factors = {decay: np.ravel([forced(towers, decay) for towers in R]) for decay in (0.5, 0.9, 0.99)}

# %%
# Then it is left to chance, on devices with memory of their own, so that these figures change from
# one build and one machine to the next. Each tower's batch is one number.


def today(x, training, decay):
    """A tower's share of ``updates_of_all_towers``."""
    average, mean = v1.get_variable("mean", initializer=[0.0]), tf.reduce_mean(x, 0)
    return updates_of_all_towers(average, [mean], decay)


METHODS = {"2": tf1.METHODS[2], "3, today": today, "3, as in 1.1": tf1.METHODS[3]}
random = np.random.default_rng(0)


def chance(norm, decay, batches):
    """The average before the first step and after each."""
    placement, after = tf1.separate_memory(batches.shape[1]), [0.0]
    with tf1.tensorflow_1():
        x = v1.placeholder(tf.float32, (batches.shape[1], 1))
        tower = partial(norm, training=tf.constant(True), decay=decay)
        update = tf1.on_towers(tower, x, placement=placement)
        average = next(each for each in v1.global_variables() if "mean" in each.op.name)
        with tf1.session(placement) as session:
            session.run(v1.global_variables_initializer())
            for batch in batches:
                session.run(update, {x: batch[:, None]})
                after.append(session.run(average)[0])
    return np.array(after)


def shares(norm, decay=0.9):
    """How often two towers follow each other, one update is lost, both read the same."""
    batches = random.normal(0, 1000, (120, 2))
    values = chance(norm, decay, batches)
    before, after, (b0, b1) = values[:-1], values[1:], (1 - decay) * batches.T
    first = decay * before + b0, decay * before + b1
    in_turn = decay * first[0] + b1, decay * first[1] + b0
    same_reading = [sum(first) - before]
    cases = in_turn, first, same_reading
    return [np.isclose(case, after, rtol=0, atol=0.002).any(0).mean() for case in cases]


# %%
# The fix, on two towers of known means: one update by the mean of both.


def after_one_step(update, decay=0.9, means=(0.0, 20.0)):
    with tf1.tensorflow_1(), tf1.session(tf1.shared_memory(1)) as session:
        average = v1.get_variable("mean", initializer=0.0)
        updated = update(average, [tf.constant(mean) for mean in means], decay)
        session.run(v1.global_variables_initializer())
        session.run(updated)
        return float(session.run(average))


found = {name: shares(norm) for name, norm in METHODS.items()}
traces = {name: chance(n, 0.5, random.normal(10, 1, (40, 8))) for name, n in METHODS.items()}

# %%

fig, axes = plt.subplot_mosaic("ab;cc", figsize=(6.2, 5.6), layout="constrained")
axes["a"].set(title="Factor of the old value", xlabel="towers, R", ylabel="factor")
for decay, factor in factors.items():
    axes["a"].plot(R, 1 - R * (1 - decay), color="#aaaaaa", lw=1)
    axes["a"].plot(R, factor, "o", label=f"ρ = {decay}")
axes["b"].set(title="P forced, ρ = 0.5", xlabel="step", ylabel="average", ylim=(-9, 6))
for towers in (1, 3, 5):
    axes["b"].plot([1, *forced(towers, 0.5, steps=6)], "o-", ms=4, label=f"R = {towers}")
axes["c"].set(title="P left to chance, R = 8, ρ = 0.5, inputs of mean 10", yscale="symlog")
axes["c"].set(xlabel="step", ylabel="average", yticks=[-1e10, -1e5, -10, 10, 1e5, 1e10])
for (name, trace), style in zip(traces.items(), (".-C4", ".-C3", "--k"), strict=True):
    axes["c"].plot(trace, style, label="method " + name)
for ax in axes.values():
    ax.legend(loc="lower left")
plt.show()

# %%
# Proof
# -----
# The factors, what happened in how many steps, and the fix.

for name, cases in found.items():
    print(f"method {name}, two towers: in turn, one lost, one reading", np.round(cases, 2))
    print(f"eight towers: average from {traces[name].min():.3g} to {traces[name].max():.3g}")
    assert abs(sum(cases) - 1) < 0.05, "no step did anything else; how often is up to the machine"
for decay, factor in factors.items():
    assert np.allclose(factor, 1 - R * (1 - decay), atol=1e-5), f"the formula, at ρ = {decay}"
claim("factor_8", factors[0.5][-1], "factor of the old value", above=-3.001, below=-2.999)
claim("one_reading", found["3, today"][2], "steps with one reading for both", above=0.25)
claim("one_lost", found["2"][1], "steps that lost an update, method 2", above=0.25)
assert np.abs(traces["3, today"] - 10).max() > 10, "eight towers leave the range from 0 to 20"
assert np.abs(traces["2"][9:] - 10).max() < 10, "lost updates do not"
shorter = after_one_step(updates_of_all_towers, means=(10.0, 10.0))
claim("fixed", after_one_step(one_update), "one update by the mean 10", above=0.999, below=1.001)
claim("each_tower", shorter, "an update for each of two towers", above=1.85, below=2.05)


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
