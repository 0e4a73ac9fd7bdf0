"""
Which statistics do several replicas remember, and which are saved?
===================================================================

Two replicas whose data have the means 0 and 4 and the variance 1 see, together, the mean 2 and the
variance 5. Each remembers its own batches, and the first one's memory is saved: here a variance of
:claim:`1.0 <first_variance>`. The mean of both memories, as in tf_keras, says
:claim:`1.0 <mean_variance>`, and a memory of the total :claim:`5.2 <total_variance>`. ``evaluate``
of Keras lets each replica use its own memory: it finds a test accuracy of
:claim:`87 % <by_each>` in a network that has :claim:`58 % <as_saved>` once it is saved and loaded.
``bnref.training.evaluate`` finds what is saved, to the last digit.

.. symptom:: the saved model predicts differently
   :cause: the replicas evaluate by populations of their own, and one of them is saved
   :check: evaluate with ``bnref.training.evaluate``, and after loading: are they equal?
   :likelihood: sometimes
   :question: 2
"""

# %%
# Check
# -----
# Save the model, load that into one without replicas, and evaluate both: ``evaluate(model)`` is the
# accuracy. It is the same, but for rounding, if the replicas evaluate by what is saved.

import tempfile
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import devices, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim

# %%


def changed_by_saving(model, plain, evaluate):
    """The accuracy of the model, and of one without replicas that has loaded what it saved."""
    before = evaluate(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        plain.load_weights(f"{folder}/model.keras")
    after = evaluate(plain)
    if abs(after - before) > 0.001:
        print(f"the accuracy changes from {before:.3f} to {after:.3f}")
    return before, after


# %%
# Fix
# ---
# Evaluate by the population that is saved. ``bnref.training.evaluate`` gives every replica the
# first one's before it begins; it makes no population better. For that, synchronize the norms.
#
# Wrong
# ^^^^^


def accuracy_of_each(model, x, y):
    results = model.evaluate(x, y, 496, verbose=0)
    return results[1]


# %%
# Right
# ^^^^^


def accuracy_as_saved(model, x, y):
    results = training.evaluate(model, x, y)
    return results[1]


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how). Let replica r have the batch mean μᵣ and variance
# σᵣ². What all see together is
#
# .. math:: \mu = \frac1R \sum_r \mu_r, \qquad
#           \sigma^2 = \frac1R \sum_r \sigma_r^2 + \frac1R \sum_r (\mu_r - \mu)^2 .
#
# The mean of the replicas' memories lacks the second sum, what lies between the replicas. A layer
# of ``bnref`` has each policy. Three of them answer question 1 (whose statistics) alike: by each
# replica's own batch. That is why no memory alone is a cure here.
#
# Met in `horovod/horovod#49 <https://github.com/horovod/horovod/issues/49>`_ and
# `pytorch/pytorch#13711 <https://github.com/pytorch/pytorch/issues/13711>`_. How Keras's own layer
# is saved: :doc:`/gallery/pitfalls/plot_the_saved_model_is_the_first_replicas`.
#
# Experiment
# ----------
# One layer a policy remembers its last batch alone, ten times: what has the first replica then?

devices.configure()
strategy = training.strategy(2)
POLICIES = {
    "first replica": bnref.BatchNorm,
    "mean of the replicas": bnref.ReplicaMeanBatchNorm,
    "total variance": bnref.PooledBatchNorm,
    "synchronized": bnref.SyncBatchNorm,  # remembers the total too, and normalizes by it
}


def remembered():
    """Means and variances of each layer after ten batches; the replicas' data are 4 apart."""
    random, rows = np.random.default_rng(0), {name: [] for name in POLICIES}
    with strategy.scope():
        layers = {name: norm(momentum=0.0) for name, norm in POLICIES.items()}
        inputs = keras.Input((1,))
        outputs = [layer(inputs) for layer in layers.values()]
        model = keras.Model(inputs, keras.layers.Concatenate()(outputs))
        step = training.Run(model, keras.optimizers.SGD(0.0)).step
    for _ in range(10):
        x = random.standard_normal((64, 1)).astype("float32")
        x[32:] += 4  # what the second replica gets
        step(x, np.zeros(64, int))
        for name, layer in layers.items():
            rows[name].append([float(layer.moving_mean[0]), float(layer.moving_variance[0])])
    return {name: np.array(each) for name, each in rows.items()}


moments = remembered()

# %%
# A network learns digits from two cameras, of which the second gives bright images of little
# contrast. Each replica has one camera's: in turn 32 of each in training, and 248 in the test.

data = datasets.load("mnist").take(train=3000, test=992)


def by_camera(x, y, share):
    """Images of both cameras: `share` of the one, as many of the other, and so on."""
    dark = x.reshape(-1, share, 28, 28, 1)
    both = np.stack([dark, 0.4 + dark / 3], axis=1).reshape(-1, 28, 28, 1)
    return both.astype("float32"), np.repeat(y.reshape(-1, share), 2, axis=0).ravel()


x_test, y_test = by_camera(data.x_test, data.y_test, share=248)


def network(norm):
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    for _ in range(2):
        layers += [keras.layers.Dense(64), norm(momentum=0.9), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


# %%
# One model a policy, whose weights are set anew for each seed.


def retrain(norm, run, seed):
    """Train anew, each replica on one camera."""
    keras.utils.set_random_seed(seed)
    run.model.set_weights(network(norm).get_weights())
    run.optimizer.iterations.assign(0)
    random = np.random.default_rng(seed)
    for _ in range(90):
        chosen = random.integers(0, 3000, 32)
        run.step(*by_camera(data.x_train[chosen], data.y_train[chosen], share=32))


# %%


def accuracies(norm):
    """Before and after saving, by the wrong function and by the right one; a row a seed."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain = network(norm)
    plain.compile(loss=loss, metrics=["accuracy"])
    with strategy.scope():
        model = network(norm)
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.2, 90))
        model.compile(loss=loss, metrics=["accuracy"])
    run, rows = training.Run(model, optimizer), []
    for seed in range(scale.at_scale(quick=3, full=10)):
        retrain(norm, run, seed)
        found = []
        for accuracy in (accuracy_of_each, accuracy_as_saved):  # the second makes them agree
            found += changed_by_saving(model, plain, partial(accuracy, x=x_test, y=y_test))
        rows.append(found)
    return np.array(rows)


results = {name: accuracies(norm) for name, norm in POLICIES.items()}

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained", sharey=True)
fig.suptitle("Two replicas with different data")
for place, (rows, scores) in enumerate(zip(moments.values(), results.values(), strict=True)):
    left.plot(rows[:, 0], np.full(10, place - 0.1), "C0o", alpha=0.5)
    left.plot(rows[:, 1], np.full(10, place + 0.1), "C1s", alpha=0.5)
    right.plot(scores[:, 0], np.full(len(scores), place - 0.1), "C3x", ms=7)
    right.plot(scores[:, 2], np.full(len(scores), place + 0.1), "C4o", ms=7)
left.plot([], [], "C0o", label="mean remembered (truth 2)")
left.plot([], [], "C1s", label="variance remembered (truth 5)")
right.plot([], [], "C3x", label="tested by each replica's own")
right.plot([], [], "C4o", label="tested by what is saved")
left.set(title="One layer", xlabel="value", ylabel="policy", yticks=range(4), yticklabels=POLICIES)
right.set(title="A network", xlabel="test accuracy", xlim=(0, 1), ylim=(3.5, -0.5))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----

TRUTH = (0, 1), (2, 1), (2, 5), (2, 5)
for (name, rows), truth in zip(moments.items(), TRUTH, strict=True):
    print(f"{name:21} mean and variance {rows.mean(0).round(2)}")
    assert np.abs(rows.mean(0) - truth).max() < 0.4, f"{name}: the formulas of Why"
first, mean_of, total, _ = (rows[:, 1].mean() for rows in moments.values())
claim("first_variance", first, "the first replica's variance", above=0.6, below=1.4)
claim("mean_variance", mean_of, "mean of both variances", above=0.6, below=1.4)
claim("total_variance", total, "variance of all examples", above=4.6, below=5.4)

for name, scores in results.items():
    print(f"{name:21} by each, loaded, as saved, loaded: {scores.round(3).tolist()}")
    assert (scores[:, 2] == scores[:, 3]).all(), f"{name}: the right function says what is saved"
alone, mean_of, total, together = results.values()
claim("by_each", alone[:, 0], "test accuracy, each replica by its own memory", above=0.8)
claim("as_saved", alone[:, 2], "test accuracy, as saved", above=0.3, below=0.8)
assert min(alone[:, 0] - alone[:, 1]) > 0.1, "the check fires on the wrong function, by each seed"
assert np.ptp(together, axis=1).max() < 0.001, "and is silent where all remember the same"
poor = max(each[:, 2].mean() for each in (alone, mean_of, total))
assert together.min() > poor + 0.05, "no memory makes up for norms that are not synchronized"
