"""
Two distributions in one step: one pass over both, or one pass for each?
========================================================================

A critic in reinforcement learning is called twice in each step: for the actions of the replay
buffer, and for those that the policy would choose. With batch norm and two passes in training mode,
its values miss the true ones by :claim:`2.8 <separate>` of their deviations; always to answer their
mean would miss by 1. Each pass is normalized by itself, and so the difference between the two kinds
of action is gone. One pass over both misses by :claim:`0.27 <joint>`, and a second pass in
inference mode by :claim:`0.31 <inference>`. No batch norm, on this small problem, is best:
:claim:`0.17 <without>`.

.. symptom:: no better than without batch norm
   :cause: two kinds of input, such as replayed and chosen actions, pass a norm one after the other
   :check: is the distance between the two inputs, as the page counts it, above 1?
   :likelihood: sometimes
   :question: 1

.. symptom:: validation far worse than training
   :cause: a critic's or discriminator's two passes in training mode are normalized each by itself
   :check: compare outputs of ``training=True`` and ``training=False``, of each kind of input alone
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# How far apart are the two inputs of a step, in deviations of the first? Above 1 it matters much
# whether they pass together.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref_gallery import scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def distance_between(first, second):
    """How many deviations the mean of a channel differs between two batches, at the most."""
    difference = np.abs(first.mean(0) - second.mean(0))
    return np.max(difference / np.maximum(first.std(0), 1e-9))


# %%
# Fix
# ---
# One pass over both, as in CrossQ. Or let the second pass, of which only the value is wanted, use
# the moving averages.
#
# Wrong
# ^^^^^


def values_of_two_passes(critic, replayed, chosen):
    return critic(replayed, training=True), critic(chosen, training=True)


# %%
# Right
# ^^^^^


def values_of_one_pass(critic, replayed, chosen):
    both = tf.concat([replayed, chosen], axis=0)
    return tf.split(critic(both, training=True), 2)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics). Batch norm takes mean and deviation of what passes
# together. For two kinds with means m₁, m₂ and variances v₁, v₂, in equal shares, these are
#
# .. math:: \mu = \tfrac12 (m_1 + m_2), \qquad
#           \sigma^2 = \tfrac12 (v_1 + v_2) + \tfrac14 (m_1 - m_2)^2
#
# in one pass, and the two kinds stay apart. In two passes each has mean 0 and deviation 1, so the
# chosen actions get the values of replayed ones. The moving averages, moved by both passes in turn,
# lie between the two, and so the values change once more at inference.
#
# CrossQ (Bhatt et al. 2024, arXiv 1902.05605) makes one pass of both, without a target network.
# That critic misses by :claim:`0.83 <alone>` once the chosen actions pass alone in training mode,
# by the same weights. Two more steps of this kind have pages of their own:
#
# - Real and generated images of a GAN. In one batch, one example's output tells of the others
#   (:doc:`/gallery/pitfalls/plot_the_batch_gives_the_answer_away`). With a batch for each
#   (`soumith/ganhacks#52 <https://github.com/soumith/ganhacks/issues/52>`_), the averages fit
#   neither: :doc:`/gallery/pitfalls/plot_one_norm_for_two_branches`.
# - SAM, which passes the same batch a second time by other weights:
#   :doc:`/gallery/pitfalls/plot_passes_that_should_not_be_remembered`.
#
# Calls without ``training=True`` make the norm do nothing, as once in Keras's example of DDPG:
# `keras-team/keras-io#198 <https://github.com/keras-team/keras-io/issues/198>`_.
#
# Experiment
# ----------
# One state and one action, both numbers. Replayed actions are around −0.5, and the policy chooses
# 1 − s/2. The true value of a pair is known: it is added up along the way that the policy takes.

DISCOUNT = 0.8
SEEDS = range(scale.at_scale(quick=3, full=10))


def next_state(state, action):
    return 0.7 * state + 0.4 * action


def reward(state, action):
    return -((state - 0.5) ** 2) - 0.3 * (action - 0.5) ** 2


def policy(state):
    return 1 - 0.5 * state


def true_value(state, action):
    total, weight = 0.0, 1.0
    for _ in range(60):
        total = total + weight * reward(state, action)
        state = next_state(state, action)
        action, weight = policy(state), weight * DISCOUNT
    return total


# %%
# The critic learns r + 0.8 Q(s', π(s')) from batches of 64 replayed steps, for 500 steps.


def values_by_moving_averages(critic, replayed, chosen):
    return critic(replayed, training=True), critic(chosen, training=False)


def network(norm):
    layers = [keras.Input((2,)), *([norm()] if norm else [])]
    for _ in range(2):
        layers.append(keras.layers.Dense(32))
        layers += [norm()] if norm else []
        layers.append(keras.layers.ReLU())
    return keras.Sequential([*layers, keras.layers.Dense(1)])


def learner(critic, optimizer, values):
    variables = critic.trainable_variables

    @tf.function
    def learn(steps):
        for _ in tf.range(steps):
            state = tf.random.normal((64, 1))
            action = tf.random.normal((64, 1), mean=-0.5, stddev=0.7)
            after = next_state(state, action)
            replayed = tf.concat([state, action], 1)
            chosen = tf.concat([after, policy(after)], 1)
            with tf.GradientTape() as tape:
                now, later = values(critic, replayed, chosen)
                target = reward(state, action) + DISCOUNT * tf.stop_gradient(later)
                loss = tf.reduce_mean((now - target) ** 2)
            gradients = tape.gradient(loss, [each.value for each in variables])
            optimizer.apply(gradients, variables)

    return learn


# %%
# The error, in deviations of the true values: at inference, and in a pass of chosen actions alone.

random = np.random.default_rng(1)
states = random.normal(size=(1000, 1)).astype("float32")
actions = random.normal(-0.5, 0.7, size=(1000, 1)).astype("float32")
replayed = np.concatenate([states, actions], 1)
reached = next_state(states, actions)
chosen = np.concatenate([reached, policy(reached)], 1)
truth = true_value(reached, policy(reached))


def error(critic, training):
    found = critic(chosen, training=training).numpy()
    return np.sqrt(np.mean((found - truth) ** 2)) / truth.std()


def errors_of(values, norm, rate):
    """A row a seed: at inference every 100 steps, and at last in training mode."""
    critic, optimizer = network(norm), keras.optimizers.Adam(rate)
    optimizer.build(critic.trainable_variables)
    learn, rows = learner(critic, optimizer, values), []
    for seed in SEEDS:
        restart(critic, optimizer, partial(network, norm), seed=seed)
        row = []
        for _ in range(5):
            learn(tf.constant(100))
            row.append(error(critic, False))
        rows.append([*row, error(critic, True)])
    return np.array(rows)


norm = partial(bnref.BatchNorm, momentum=0.9)
ARMS = {  # each at the best of three rates: 0.001, 0.003, 0.01
    "two passes": (values_of_two_passes, norm, 0.01),
    "one pass": (values_of_one_pass, norm, 0.01),
    "second at inference": (values_by_moving_averages, norm, 0.003),
    "no batch norm": (values_of_two_passes, None, 0.01),
}
runs = {name: errors_of(*arm) for name, arm in ARMS.items()}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
steps = np.arange(100, 501, 100)
for (name, rows), style in zip(runs.items(), ("C1X-", "C0o-", "C2D-", "C4s-"), strict=True):
    curves = rows[:, :-1]
    ax.semilogy(steps, curves.mean(0), style, ms=5, label=name)
    ax.fill_between(steps, curves.min(0), curves.max(0), color=style[:2], alpha=0.2)
ax.axhline(1, color="C7", lw=1, ls=":")
ax.set(title="Values of chosen actions", xlabel="step")
ax.set(ylabel="error, in deviations of\nthe true values", yticks=(0.1, 0.3, 1, 3))
ax.set_yticks([], minor=True)
ax.set_yticklabels(("0.1", "0.3", "1", "3"))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The errors at the end, by seed. Dotted in the figure: always to say the mean.

separate, joint, inference, without = (rows[:, -2] for rows in runs.values())
alone = runs["one pass"][:, -1]
claim("separate", separate, "error, two passes in training mode", above=1)
claim("joint", joint, "error, one pass", below=0.7)
claim("inference", inference, "error, second pass at inference", below=0.6)
claim("without", without, "error, no batch norm", below=0.7)
claim("alone", alone, "error of one pass's critic, the chosen alone in training mode", above=0.5)
apart, alike = distance_between(replayed, chosen), distance_between(replayed[:500], replayed[500:])
claim("distance", apart, "distance between the two inputs, in deviations", above=1)
assert alike < 0.3, "the check is silent on two batches of one kind"
