"""
Good in training, chance when it predicts one image: three faults of inference
==============================================================================

The network of the post "with and without" recognizes over 90 % of the test digits in large batches
and **one in ten when it is given one digit at a time**. Through the population statistics that it
never assigns it loses more than ten points, and dropout, left on in every test, costs it some more.
All three are faults of inference: the trained weights are good.

The post (in Chinese) compares one MNIST network with and without batch norm. Its function for
convolutions answers *remembered how?* with never, its function for dense layers *used when?* with
the batch's, always. In bnref each answer is one hook, so each fault is one method:

.. symptom:: every prediction is the same
   :doctor: training_at_inference
   :cause: a batch of one normalized by itself comes out as β
   :check: ``model(x[:1])`` for different x: does the output stay the same?

.. symptom:: predictions depend on the batch
   :doctor: training_at_inference
   :cause: the batch normalizes itself at inference
   :check: ``model(x)[:1]`` beside ``model(x[:1])``, both with ``training=False``

.. symptom:: test accuracy near chance
   :doctor: never_updated
   :cause: the population statistics are never assigned, or never read
   :check: print ``layer.moving_mean`` before and after an epoch
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale


class NeverRemembered(bnref.BatchNorm):
    """``batch_norm_conv``: nothing ever assigns ``pop_mean`` and ``pop_variance``."""

    def update_population(self, moments):
        """Remembered how? Never: the population stays at mean 0 and variance 1."""


class AlwaysBatch(bnref.BatchNorm):
    """``batch_norm_full``: the batch is normalized by itself at inference too."""

    def inference_moments(self, x):
        """Used when? At inference the batch's, too; there is no population."""
        return self.batch_moments(x)


# %%
# The post's network, narrower, with each wrong function and with the repair of both.

data = datasets.load("mnist").take(train=4000, test=500)


def trained(seed, norm):
    keras.utils.set_random_seed(seed)
    model = models.two_convolutions(norm, filters=(8, 16), units=64)
    options = {"steps": 120, "batch_size": 64, "optimizer": keras.optimizers.Adam(0.002)}
    training.train(model, data.x_train, data.y_train, seed=seed, **options)
    return model


def accuracy(model, *, images=500, batch_size=500, dropout=False):
    hits = 0
    for i in range(0, images, batch_size):
        x = data.x_test[i : i + batch_size]
        for layer in model.layers:
            x = layer(x, training=dropout and isinstance(layer, keras.layers.Dropout))
        hits += np.sum(np.argmax(x, -1) == data.y_test[i : i + batch_size])
    return hits / images


seeds = range(scale.at_scale(quick=3, full=10))
right = [trained(seed, lambda: bnref.BatchNorm(momentum=0.9)) for seed in seeds]
repaired = [accuracy(model) for model in right]

# %%
# **One image at a time.** A batch of one has variance 0 and x − μ = 0, so the layer returns β for
# every image: always the same digit, which is right for about a tenth of them.

selfish = [trained(seed, AlwaysBatch) for seed in seeds]
together = [accuracy(model) for model in selfish]
alone = [accuracy(model, images=50, batch_size=1) for model in selfish]
repaired_alone = [accuracy(model, images=50, batch_size=1) for model in right]

# %%
# **Population never assigned.** The cure for a network that is trained already: recompute its
# population from a few batches. Not one weight changes.


def found(model, cause):
    report = doctor.examine(model, (data.x_test[:128], data.y_test[:128]), only=[cause])
    return [finding.evidence for finding in report.findings]


forgetful = [trained(seed, NeverRemembered) for seed in seeds]
told_of_forgetful = found(forgetful[0], "never_updated")
never = [accuracy(model) for model in forgetful]
means = [v for m in forgetful for v in m.variables if "moving_mean" in v.path]
unassigned = not any(np.any(mean) for mean in means)
for model in forgetful:
    population.recompute(model, np.split(data.x_train[:2000], 20))
recomputed = [accuracy(model) for model in forgetful]

# %%
# **Dropout in the test.** The post feeds ``keep_prob: 0.5`` everywhere, in the tests too.

dropped = [accuracy(model, dropout=True) for model in right]

rows = {
    "dropout left on": (dropped, repaired),
    "population never assigned": (never, recomputed),
    "one image at a time": (alone, repaired_alone),
}
fig, ax = plt.subplots(figsize=(6.2, 2.8), layout="constrained")
for line, (name, (posted, mended)) in enumerate(rows.items()):
    ax.plot(posted, [name] * len(seeds), "X", color="C1", ms=9, label="" if line else "as posted")
    ax.plot(mended, [name] * len(seeds), "o", color="C0", ms=8, label="" if line else "repaired")
ax.axvline(0.1, color="#555555", ls=":", lw=1, label="chance")
ax.set(xlabel="test accuracy", xlim=(0, 1.02), title="Three faults of inference, several starts")
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, predict one example alone and among others: the results must be equal.
# ``bnref.doctor.examine(model, data, only=["training_at_inference", "never_updated"])`` does that.
# The repair: one layer that remembers, ``bnref.BatchNorm()`` or Keras's own, called with
# ``training=True`` in the training step and ``training=False`` everywhere else.
#
# Conclusion
# ----------

for name, (posted, mended) in rows.items():
    print(f"{name:26} as posted {np.round(posted, 3)}   repaired {np.round(mended, 3)}")
assert max(alone) < 0.2 and min(together) > 0.9, "good in a batch, chance alone"
in_a_batch = [accuracy(model, images=50, batch_size=50) for model in right]
assert repaired_alone == in_a_batch, "a prediction must not depend on the other images"
assert unassigned and np.mean(recomputed) - np.mean(never) > 0.1
assert np.mean(dropped) < np.mean(repaired)

told_of_selfish = found(selfish[0], "training_at_inference")
print("the doctor, of the wrong models:", *told_of_selfish, *told_of_forgetful, sep="\n")
assert told_of_selfish and told_of_forgetful, "the checks fire on the wrong models"
for cause in ("training_at_inference", "never_updated"):
    assert not found(right[0], cause), "and are silent on the right one"
