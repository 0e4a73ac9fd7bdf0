"""
Two domains: in one batch, in turns, or each with a population of its own?
==========================================================================

A population each, if the domain is known at inference: **92 %** on both domains, whether the
batches mix them or not (:class:`bnref.layers.DomainBatchNorm`). Without that, mix them in every
batch: 83 to 88 %. Never train **in turns**, one domain a batch, with one population for both:
clear digits are then read at 50 to 70 % and faint ones at about **20 %**, though every training
batch looks perfect.

The symptom: good in training, near chance at inference for one of the domains. The cause is
question 1, *whose statistics*: a batch of one domain is normalized by that domain's, while the
population is an average over both and fits neither.

.. symptom:: test accuracy near chance
   :doctor: one_kind_a_batch
   :check: a batch of one kind: ``training=True`` beside ``training=False``
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, scale

# %%
# Clear digits and faint ones
# ---------------------------
# The second domain is 0.6 + x/4: the same digits, faint on grey. Each image carries its domain as
# one number more, so that a layer can be told. A batch of 64 is half of each, or all of one, and
# the next all of the other.

data = datasets.load("mnist").take(train=3000, test=600)
STEPS, SEEDS = 160, range(scale.at_scale(quick=3, full=10))


def both(x):
    """Clear images as rows, then the faint ones, with the number of their domain at the end."""
    rows = x.reshape(len(x), -1)
    rows = np.concatenate([rows, 0.6 + rows / 4])
    return np.column_stack([rows, np.repeat([0, 1], len(x))]).astype("float32")


x_train, x_test = both(data.x_train), both(data.x_test)
y_train, y_test = np.tile(data.y_train, 2), np.tile(data.y_test, 2)


def network(norm, by_domain):
    inputs = keras.Input((785,))
    domain, x = keras.ops.cast(inputs[:, 784], "int32"), inputs[:, :784]
    for _ in range(2):
        x = keras.layers.Dense(64)(x)
        x = norm()(x, domain=domain) if by_domain else norm()(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def drawn(seed, in_turns):
    """Which examples each batch has."""
    batches = np.random.default_rng(seed).integers(0, 3000, (STEPS, 64))
    return batches + 3000 * (np.arange(STEPS)[:, None] % 2 if in_turns else np.arange(64) % 2)


def learn(seed, norm, in_turns):
    """Test accuracy on clear and on faint digits, every 20 steps."""
    keras.utils.set_random_seed(seed)
    model = network(norm, by_domain=norm is EACH)
    rate = keras.optimizers.schedules.CosineDecay(0.003, STEPS)
    step, measured = training.Run(model, keras.optimizers.Adam(rate)).step, []
    for number, batch in enumerate(drawn(seed, in_turns), start=1):
        step(x_train[batch], y_train[batch])
        if number % 20 == 0:
            halves = zip(np.split(x_test, 2), np.split(y_test, 2), strict=True)
            measured.append([training.evaluate(model, x, y)[1] for x, y in halves])
    return measured


ONE = partial(bnref.BatchNorm, momentum=0.9)
EACH = partial(bnref.DomainBatchNorm, domains=2, momentum=0.9)
ARMS = {"in turns": (ONE, True), "mixed": (ONE, False)}
ARMS |= {f"{name}, a population each": (EACH, turns) for name, (_, turns) in ARMS.items()}
curves = {name: np.array([learn(seed, *arm) for seed in SEEDS]) for name, arm in ARMS.items()}
fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.8), layout="constrained", sharey=True)
for ax, domain, title in zip(axes, (0, 1), ("clear digits", "faint digits"), strict=True):
    for colour, (name, scores) in enumerate(curves.items()):
        each, steps = scores[..., domain].T, range(20, STEPS + 1, 20)
        ax.plot(steps, each, f"C{colour}", lw=0.8, alpha=0.6)
        ax.plot(steps, each.mean(1), f"C{colour}", lw=2.2, label=name)
    ax.set(title=f"Test accuracy, {title}", xlabel="training step", ylim=(0, 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# With half of the examples each, the population of a mixture has the distance between the domains
# in its variance, (σ₁² + σ₂²)/2 + (μ₁ − μ₂)²/4; in turns it has not, and its mean is far from both.
# A population each makes the faint digits equal to the clear ones after one layer.
#
# In your own model
# -----------------
# Compare a batch of one domain in ``training=True`` with ``training=False``: do they differ, while
# mixed batches agree? Whether your batches are of one kind each, says
# ``bnref.doctor.examine(model, data, only=["one_kind_a_batch"])``. Real and
# generated images of a GAN, source and target of an adaptation, clean and adversarial images are
# domains. Mix them in every batch, at the shares of inference; or give
# ``bnref.DomainBatchNorm(domains=2)`` the domain of each example, here and at inference. It costs a
# few vectors a domain, and statistics of fewer examples. For a domain met after training,
# :func:`bnref.population.recompute` on it, without labels. All variants: :doc:`/variants`.
#
# Conclusion
# ----------

end = {name: scores[:, -1] for name, scores in curves.items()}
for name, scores in end.items():
    print(f"{name:27} clear {scores[:, 0].round(2)}, faint {scores[:, 1].round(2)}")
turns, mixture, *each = end.values()
assert turns[:, 1].max() < 0.4 < turns[:, 0].min()
assert turns[:, 0].max() < mixture[:, 0].min() - 0.05
assert mixture.min() > 0.75 and np.min(each) > 0.85, "either cure works"
assert np.mean(each) > mixture.mean() + 0.02, "a population each is better"


def found(in_turns):
    batches = x_train[drawn(0, in_turns)[:16]]
    report = doctor.examine(network(ONE, by_domain=False), list(batches), only=["one_kind_a_batch"])
    return [finding.evidence for finding in report.findings]


wrong, right = found(in_turns=True), found(in_turns=False)
print("the doctor, of batches in turns:", *wrong)
assert wrong, "the check fires on batches in turns"
assert not right, "and is silent on mixed ones"
