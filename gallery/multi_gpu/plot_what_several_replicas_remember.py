"""
Which statistics do several replicas remember, and which are saved?
===================================================================

There are three policies, and where the replicas' data differ they remember different things. Two
replicas whose data have means **0 and 4** and variance 1 see, together, the mean **2** and the
variance **5**. The first replica's memory says 0 and 1; the mean of the replicas' memories, as in
tf_keras, 2 and 1; only the total variance says 2 and 5. ``bnref`` has a layer for each, and
whichever it is, **what is saved is what was evaluated**: the same accuracy to the last digit.

Question 2, *remembered how*, is answered three ways. Question 1, *whose statistics*, is not: all
three normalize each replica by its own batch, which is why the right memory is not the cure here.

.. symptom:: the saved model predicts differently
   :cause: the replicas evaluate by populations of their own, and one of them is saved
   :check: evaluate with ``bnref.training.evaluate``, and after loading: are they equal?
   :likelihood: sometimes
   :question: 2
"""

import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import devices, training
from bnref_gallery import datasets, scale

devices.configure()
strategy = training.strategy(2)
POLICIES = {
    "first replica": bnref.BatchNorm,
    "mean of the replicas": bnref.ReplicaMeanBatchNorm,
    "total variance": bnref.PooledBatchNorm,
    "synchronized": bnref.SyncBatchNorm,  # remembers the total too, and normalizes by it
}

# %%
# One layer that remembers its last batch alone, ten times: what do both replicas have then?

random = np.random.default_rng(0)
remembered = {name: [] for name in POLICIES}
for name, norm in POLICIES.items():
    with strategy.scope():
        layer = norm(momentum=0.0)
        model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(2)])
        optimizer = keras.optimizers.SGD(0.0)
    step = training.Run(model, optimizer).step
    for _ in range(10):
        x = np.float32(random.standard_normal((64, 1)) + 4 * (np.arange(64) >= 32)[:, None])
        step(x, np.zeros(64, int))
        remembered[name].append([float(layer.moving_mean[0]), float(layer.moving_variance[0])])
remembered = {name: np.array(each) for name, each in remembered.items()}

# %%
# A network learns digits from two cameras, of which the second gives bright images of little
# contrast. Each replica has one camera's. Then it is tested on both, saved, loaded, tested again.

data = datasets.load("mnist").take(train=3000, test=400)
x_test = np.concatenate([data.x_test, 0.4 + data.x_test / 3])
y_test = np.tile(data.y_test, 2)


def learned(norm, seed):
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        for _ in range(2):
            layers += [keras.layers.Dense(64), norm(momentum=0.9), keras.layers.ReLU()]
        model = keras.Sequential([*layers, keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.2, 120))
    step, draws = training.Run(model, optimizer).step, np.random.default_rng(seed)
    for _ in range(120):
        first, second = draws.integers(0, 3000, (2, 32))
        x = np.concatenate([data.x_train[first], 0.4 + data.x_train[second] / 3])
        step(x, data.y_train[np.concatenate([first, second])])  # the first half to replica 0
    return model


scores = {name: [] for name in POLICIES}
for name, norm in POLICIES.items():
    for seed in range(scale.at_scale(quick=3, full=10)):
        model = learned(norm, seed)
        tested = training.evaluate(model, x_test, y_test)  # right: by the population that is saved
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.keras")
            loaded = keras.models.load_model(f"{folder}/model.keras")
        scores[name].append([tested[1], training.evaluate(loaded, x_test, y_test)[1]])
scores = {name: np.array(each) for name, each in scores.items()}

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained", sharey=True)
for place, name in enumerate(POLICIES):
    left.plot(remembered[name][:, 0], np.full(10, place - 0.1), "C0o", alpha=0.5)
    left.plot(remembered[name][:, 1], np.full(10, place + 0.1), "C1s", alpha=0.5)
    right.plot(scores[name][:, 0], np.full(len(scores[name]), place - 0.1), "C4o", ms=7)
    right.plot(scores[name][:, 1], np.full(len(scores[name]), place + 0.1), "C2+", ms=9)
left.plot([], [], "C0o", label="mean remembered (2)")
left.plot([], [], "C1s", label="variance remembered (5)")
right.plot([], [], "C4o", label="tested on the replicas")
right.plot([], [], "C2+", label="saved and loaded")
left.set(title="One layer", yticks=range(4), yticklabels=POLICIES, ylim=(3.5, -0.5))
right.set(title="Test accuracy, both cameras", xlim=(0, 1))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To have what is saved, evaluate by it: ``bnref.training.evaluate`` gives every replica the first
# one's population before it begins. ``model.evaluate`` of Keras does not
# (:doc:`/gallery/pitfalls/plot_the_saved_model_is_the_first_replicas`).
#
# Conclusion
# ----------

for name in POLICIES:
    mean, variance = remembered[name].mean(0)
    print(f"{name:21} mean {mean:.2f}, variance {variance:.2f}; tested, saved:", *scores[name])
wanted = dict.fromkeys(POLICIES, (2, 5)) | {"first replica": (0, 1)}
wanted["mean of the replicas"] = (2, 1)
for name in POLICIES:
    assert np.abs(remembered[name].mean(0) - wanted[name]).max() < 0.4
    assert (scores[name][:, 0] == scores[name][:, 1]).all(), "saved as evaluated"
others = [scores[name] for name in list(POLICIES)[:3]]
assert scores["synchronized"].min() > max(each.mean() for each in others) + 0.05
