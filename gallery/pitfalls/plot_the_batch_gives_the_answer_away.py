"""
Batch statistics can give the answer away: the loss falls to 0 on pure noise
============================================================================

A contrastive model has to find, among 32 keys, the one that belongs to a query. Where a query and
its key are normalized in a group of their own, the normalized key is exactly minus the query. The
training loss then falls from log 32 = 3.5 to :claim:`0.04 <one_pair>` on noise, where there is
nothing to learn. At inference the model is right for :claim:`3 % <at_inference>` of the queries,
which is chance. Shuffling the keys over the groups ends that, and so does one batch of all pairs.

.. symptom:: test accuracy near chance
   :doctor: batch_gives_the_answer
   :cause: the training examples of a group belong together, and batch statistics say so
   :check: train on noise of the same shape: the loss falls below log(number of candidates)

.. symptom:: predictions depend on the batch
   :doctor: batch_gives_the_answer
   :check: regroup the same examples in ``model(x, training=True)``: does the loss rise?
"""

# %%
# Check
# -----
# The check regroups the examples of your batches at random and compares the losses in training
# mode. It needs a model that gives a loss for each example. A contrastive model is checked by hand.

from functools import cache, partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor
from bnref_gallery import scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

N, WIDTH, STEPS = 32, 64, 120

# %%
# Fix
# ---
# Let no group hold a query together with its key: shuffle the keys before they are encoded. Where
# all candidates are in one batch, a synchronized norm (:class:`bnref.layers.SyncBatchNorm`) helps.
#
# Wrong
# ^^^^^


def places_of_keys_in_order(random):
    """Each key stands in the group of its own query."""
    return np.arange(N)


# %%
# Right
# ^^^^^


def places_of_keys_shuffled(random):
    """Each key stands in anyone's group."""
    return random.permutation(N)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): the statistics are those of examples that belong
# together, so they say who belongs to whom. With two values a and b in a group, the mean is between
# them and x̂ is ±1: one is minus the other. With two pairs in a group the leak is small, with four
# hardly there, in this small network.
#
# He et al. 2020 (MoCo, arXiv 1911.05722, section 3.3, "Shuffling BN") shuffle the keys. There the
# other keys wait in a queue, and a synchronized batch would still mark its own:
# `facebookresearch/moco#46 <https://github.com/facebookresearch/moco/issues/46>`_.
#
# Experiment
# ----------
# Groups of 2N/G examples in one batch are what G replicas do that are not synchronized. ``places``
# says in whose group each key stands.


def network(groups):
    """An encoder, and a predictor of the key's code from the query's."""
    norm = partial(bnref.GhostBatchNorm, groups=groups) if groups > 1 else bnref.BatchNorm
    layers = [keras.Input((WIDTH,)), keras.layers.Dense(128), norm(momentum=0.9)]
    encoder = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(64)])
    return encoder, keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])


def logits(networks, groups, queries, keys, places, training):
    """How well each key fits each query, (N, N)."""
    encoder, predictor = networks
    keys = tf.gather(keys, tf.argsort(places))
    pairs = tf.concat([tf.reshape(each, (groups, -1, WIDTH)) for each in (queries, keys)], 1)
    codes = encoder(tf.reshape(pairs, (2 * N, WIDTH)), training=training)
    codes = tf.split(tf.reshape(codes, (groups, -1, 64)), 2, 1)
    queries, keys = (tf.reshape(each, (N, 64)) for each in codes)
    queries = tf.math.l2_normalize(predictor(queries), -1)
    keys = tf.math.l2_normalize(tf.gather(keys, places), -1)
    return 10 * tf.matmul(queries, keys, transpose_b=True)


# %%
# The step is traced once for each number of groups; each seed begins with fresh weights.


@cache
def traced(groups):
    """Networks, their optimizer and their step."""
    networks, optimizer = network(groups), keras.optimizers.SGD(0.5, momentum=0.9)
    weights = [each for part in networks for each in part.trainable_variables]
    optimizer.build(weights)

    @tf.function
    def step(queries, keys, places):
        with tf.GradientTape() as tape:
            fits = logits(networks, groups, queries, keys, places, True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(N), fits))
        optimizer.apply(tape.gradient(loss, [each.value for each in weights]), weights)
        return loss

    return networks, optimizer, step


def learnt(groups, places_of_keys):
    """Training losses, and the accuracy at inference as the last number; a row a seed."""
    networks, optimizer, step = traced(groups)
    rows = []
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(networks, optimizer, partial(network, groups), seed=seed)
        random, losses = np.random.default_rng(seed), []
        for _ in range(STEPS):
            places = tf.constant(places_of_keys(random), tf.int32)
            pairs = random.standard_normal((2, N, WIDTH)).astype("float32")
            losses.append(float(step(*map(tf.constant, pairs), places)))
        rows.append([*losses, accuracy_on_noise(networks, groups, random)])
    return np.array(rows)


# %%


def accuracy_on_noise(networks, groups, random):
    tests = random.standard_normal((10, 2, N, WIDTH)).astype("float32")
    outputs = [logits(networks, groups, *test, tf.range(N), False).numpy() for test in tests]
    return np.mean(np.argmax(outputs, -1) == np.arange(N))


in_order, shuffled = places_of_keys_in_order, places_of_keys_shuffled
ARMS = {  # groups, places of the keys, style
    "1 pair a group": (32, in_order, "C1"),
    "1 pair, keys shuffled": (32, shuffled, "C2"),
    "2 pairs a group": (16, in_order, "C3"),
    "4 pairs a group": (8, in_order, "C4"),
    "one batch of all": (1, in_order, "C0--"),
}
runs = {name: learnt(groups, places) for name, (groups, places, _) in ARMS.items()}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for name, (_, _, style) in ARMS.items():
    ax.plot(runs[name][:, :-1].mean(0), style, label=name)
ax.axhline(np.log(N), color="k", ls=":", lw=1, label="log 32")
ax.set(title="Training loss on noise", xlabel="step", ylabel="loss", ylim=(0, 4.2))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# The doctor examines a classifier that tells large examples from small ones. In the wrong data each
# batch has a scale of its own, so that only the batch's deviation tells which examples are large.
# In the right data each example has a scale of its own.


def classified(scale_of):
    """A model that has learnt it, and its data, in batches of 16."""
    random = np.random.default_rng(0)
    y = np.tile([0, 1], (64, 8))
    scales = np.exp(random.normal(size=(64, 1) if scale_of == "batch" else (64, 16)))
    x = np.where(y == 1, 1.3, 0.7) * scales * random.choice([-1, 1], size=y.shape)
    x, y = np.repeat(x.reshape(-1, 1), 8, axis=1).astype("float32"), y.ravel()
    norm, hidden = bnref.BatchNorm(momentum=0.9), keras.layers.Dense(32, activation="relu")
    model = keras.Sequential([keras.Input((8,)), norm, hidden, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, y, batch_size=16, epochs=8, shuffle=False, verbose=0)
    return model, (x, y)


def found(scale_of):
    only = ["batch_gives_the_answer"]
    report = doctor.examine(*classified(scale_of), batch_size=16, only=only)
    return [finding.evidence for finding in report.findings]


# %%
# Proof
# -----
# The losses of the last 20 steps, accuracies at inference, and the doctor on both models.

last = {name: rows[:, -21:-1].mean(1) for name, rows in runs.items()}
learnt_of = {name: np.log(N) - losses for name, losses in last.items()}
chance = np.concatenate([rows[:, -1] for rows in runs.values()])
claim("one_pair", last["1 pair a group"], "training loss, 1 pair a group", above=0, below=0.2)
claim("at_inference", chance, "accuracy at inference, all arms", above=0, below=0.12)
claim("shuffled", learnt_of["1 pair, keys shuffled"], "nats learnt", above=-0.05, below=0.05)
claim("together", learnt_of["one batch of all"], "nats learnt", above=-0.05, below=0.05)
claim("two_pairs", learnt_of["2 pairs a group"], "nats learnt", above=0.1, below=0.9, of="mean")
claim("four_pairs", learnt_of["4 pairs a group"], "nats learnt", above=-0.1, below=0.1)
query, key = bnref.BatchNorm(epsilon=1e-9)(np.random.default_rng(0).random((2, 9)), training=True)
assert float(tf.reduce_max(abs(query + key))) < 1e-3, "the key is minus the query"

evidence = found(scale_of="batch")
print("the doctor, of a scale a batch:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found(scale_of="example"), "and is silent on the right one"
