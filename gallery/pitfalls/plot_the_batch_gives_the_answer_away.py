"""
Batch statistics can give the answer away: the loss falls to 0 on pure noise
============================================================================

A contrastive model has to find, among 32 keys, the one that belongs to a query. Where a query and
its key are normalized in one group, the group's statistics mark both. With one pair a group the
normalized key is exactly **minus the query**, and the training loss falls from log 32 = 3.5 to
**below 0.2 on noise**, where there is nothing to learn; at inference the model is at chance.
Shuffling the keys over the groups ends that, and so does one batch of all. With two pairs the leak
is small, with four hardly there, in this small network.

The symptom: an excellent training loss, and useless features. Question 1, *whose statistics*, is
answered wrongly: by a set of examples that tells which belong together.

.. symptom:: test accuracy near chance
   :doctor: batch_gives_the_answer
   :cause: the training examples of a group belong together, and batch statistics say so
   :check: train on noise of the same shape: the loss falls below log(number of candidates)

.. symptom:: predictions depend on the batch
   :doctor: batch_gives_the_answer
   :check: regroup the same examples in ``model(x, training=True)``: does the loss rise?
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor
from bnref_gallery import scale

N, WIDTH, STEPS = 32, 64, 150

# %%
# Groups of 2N/G examples in one batch are what G replicas do that are not synchronized. ``places``
# says in whose group each key stands: its own query's, or, shuffled, anyone's.


def network(groups):
    norm = partial(bnref.GhostBatchNorm, groups=groups) if groups > 1 else bnref.BatchNorm
    layers = [keras.Input((WIDTH,)), keras.layers.Dense(128), norm(momentum=0.9)]
    encoder = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(64)])
    return encoder, keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])


def logits(networks, groups, queries, keys, places, training):
    encoder, predictor = networks
    keys = tf.gather(keys, tf.argsort(places))
    pairs = tf.concat([tf.reshape(each, (groups, -1, WIDTH)) for each in (queries, keys)], 1)
    codes = encoder(tf.reshape(pairs, (2 * N, WIDTH)), training=training)
    codes = tf.split(tf.reshape(codes, (groups, -1, 64)), 2, 1)
    queries, keys = (tf.reshape(each, (N, 64)) for each in codes)
    queries = tf.math.l2_normalize(predictor(queries), -1)
    keys = tf.math.l2_normalize(tf.gather(keys, places), -1)
    return 10 * tf.matmul(queries, keys, transpose_b=True)


def learnt(groups, shuffled):
    """Training losses and accuracy at inference, by seed."""
    networks, optimizer = network(groups), keras.optimizers.SGD(0.5, momentum=0.9)
    weights = sum((each.trainable_variables for each in networks), [])
    optimizer.build(weights)

    @tf.function
    def step(queries, keys, places):
        with tf.GradientTape() as tape:
            fits = logits(networks, groups, queries, keys, places, True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(N), fits))
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    start = [variable.numpy() for variable in optimizer.variables]
    for seed in range(scale.at_scale(quick=3, full=10)):
        keras.utils.set_random_seed(seed)
        fresh = [value for each in network(groups) for value in each.get_weights()]
        state = [v for each in networks for v in each.weights] + optimizer.variables
        for variable, value in zip(state, fresh + start, strict=True):
            variable.assign(value)
        random, losses = np.random.default_rng(seed), []
        for _ in range(STEPS):
            places = random.permutation(N) if shuffled else np.arange(N)  # right, wrong
            arrays = *np.float32(random.standard_normal((2, N, WIDTH))), np.int32(places)
            losses.append(float(step(*map(tf.constant, arrays))))
        tests = np.float32(random.standard_normal((10, 2, N, WIDTH)))
        outputs = [logits(networks, groups, *test, tf.range(N), False).numpy() for test in tests]
        yield *losses, np.mean(np.argmax(outputs, -1) == np.arange(N))


ARMS = {  # groups, shuffled, style
    "1 pair a group": (32, False, "C1"),
    "1 pair, keys shuffled": (32, True, "C2"),
    "2 pairs a group": (16, False, "C3"),
    "4 pairs a group": (8, False, "C4"),
    "one batch of all": (1, False, "C0--"),
}
runs = {name: np.array([*learnt(*arm[:2])]) for name, arm in ARMS.items()}

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for name, (_, _, style) in ARMS.items():
    ax.plot(runs[name][:, :-1].mean(0), style, label=name)
ax.axhline(np.log(N), color="k", ls=":", lw=1, label="log 32")
ax.set(title="Training loss on noise", xlabel="step", ylim=(0, 4.2))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# He et al. 2020 (MoCo, arXiv 1911.05722) shuffle the keys; there they wait in a queue, and a
# synchronized batch would still mark its own: `facebookresearch/moco#46
# <https://github.com/facebookresearch/moco/issues/46>`_. Where all candidates are in one batch,
# synchronize (:class:`bnref.layers.SyncBatchNorm`). To check your own model, train it on noise. Or,
# of a model that gives a loss for each example, call
# ``bnref.doctor.examine(model, data, only=["batch_gives_the_answer"])``, which regroups
# the batches. Here it is asked of a classifier of large and small examples: where each batch has a
# scale of its own, so that only its deviation tells which are the large ones; and where each
# example has one.


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
    model.fit(x, y, batch_size=16, epochs=15, shuffle=False, verbose=0)
    return model, (x, y)


def found(scale_of):
    only = ["batch_gives_the_answer"]
    report = doctor.examine(*classified(scale_of), batch_size=16, only=only)
    return [finding.evidence for finding in report.findings]


# %%
# Conclusion
# ----------

last = {name: rows[:, -21:-1].mean(1) for name, rows in runs.items()}
for name, rows in runs.items():
    print(f"{name:21} last losses {last[name].round(3)}, at inference {rows[:, -1].round(3)} right")
_, shuffled, two, four, together = (np.log(N) - each for each in last.values())
assert last["1 pair a group"].max() < 0.2 and np.max([rows[:, -1] for rows in runs.values()]) < 0.12
assert max(abs(shuffled).max(), abs(together).max()) < 0.05, "nothing is learnt"
assert 0.1 < two.mean() < 0.9 and abs(four).max() < 0.1
query, key = bnref.BatchNorm(epsilon=1e-9)(np.random.default_rng(0).random((2, 9)), training=True)
assert float(tf.reduce_max(abs(query + key))) < 1e-3

evidence = found(scale_of="batch")
print("the doctor, of a scale a batch:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found(scale_of="example"), "and is silent on the right one"
