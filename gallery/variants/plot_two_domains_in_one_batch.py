"""
Two domains: in one batch, in turns, or each with a population of its own?
==========================================================================

Never train in turns, one domain a batch, with one population for both: clear digits are then
classified with an accuracy of :claim:`64 % <turns_clear>` and faint ones with
:claim:`19 % <turns_faint>`, though every training batch looks perfect. With both domains in every
batch it is :claim:`82 to 88 % <mixed>`. If the domain is known at inference, give each a population
of its own (:class:`bnref.layers.DomainBatchNorm`): :claim:`91 % <each>` on both, whether the
batches mix them or not.

.. symptom:: test accuracy near chance
   :doctor: one_kind_a_batch
   :check: a batch of one kind: ``training=True`` beside ``training=False``
"""

# %%
# Check
# -----
# The check compares the moments of the batches with each other: give it batches in the order of
# your training. By hand, do the outputs for a batch of one domain differ between ``training=True``
# and ``training=False``, while those for mixed batches agree?

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Mix the domains in every batch, at the shares that they have at inference. Or tell the norm the
# domain of each example, in training and at inference. That costs a few vectors a domain, and
# statistics of fewer examples. For a domain that comes after training, recompute the population on
# it, without labels: :func:`bnref.population.recompute`.
#
# Wrong
# ^^^^^


def batch_wrong(random, number):
    """64 of one domain, in turns."""
    batch = random.integers(0, 3000, 64)
    if number % 2:
        batch += 3000
    return batch


# %%
# Right
# ^^^^^


def batch_right(random, number):
    """32 of each domain."""
    batch = random.integers(0, 3000, 64)
    batch[32:] += 3000
    return batch


# %%
# Wrong, domain known
# ^^^^^^^^^^^^^^^^^^^


def normalized_wrong(x, domain):
    norm = bnref.BatchNorm(momentum=0.9)
    return norm(x)


# %%
# Right, domain known
# ^^^^^^^^^^^^^^^^^^^


def normalized_right(x, domain):
    norm = bnref.DomainBatchNorm(domains=2, momentum=0.9)
    return norm(x, domain=domain)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): a batch of one domain is normalized by that
# domain's, while the population is an average over both and fits neither. In turns the population
# tends to the mean of both means and of both variances. In a mixture of equal shares its variance
# has the distance between the domains, too:
#
# .. math:: \sigma^2 = \frac{\sigma_1^2 + \sigma_2^2}{2} + \frac{(\mu_1 - \mu_2)^2}{4} .
#
# So do the batches, and training and inference agree. A population each makes the faint digits
# equal to the clear ones after one layer. Chang et al. 2019, arXiv 1906.03950, section 3, have a
# batch norm for each domain; Xie et al. 2020, arXiv 1911.09665, section 4, one for clean and one
# for adversarial images. Real and generated images of a GAN are domains too, and so are source and
# target of an adaptation. All variants: :doc:`/variants`.
#
# Met in `adapt-python/adapt#92 <https://github.com/adapt-python/adapt/issues/92>`_ and
# `google-research/adamatch#1 <https://github.com/google-research/adamatch/issues/1>`_. Batches of
# all real or all generated images, in `soumith/ganhacks#52
# <https://github.com/soumith/ganhacks/issues/52>`_, are for a discriminator, which is never used by
# its population. A model that is tested must not be trained so, as the figure shows.
#
# Experiment
# ----------
# The second domain is 0.6 + x/4: the same digits, faint on grey. Each image carries its domain as
# one number more, so that a layer can be told.

data = datasets.load("mnist").take(train=3000, test=1000)
STEPS, SEEDS = 160, range(scale.at_scale(quick=3, full=10))


def both(x):
    """Clear images as rows, then the faint ones, with the number of their domain at the end."""
    rows = x.reshape(len(x), -1)
    rows = np.concatenate([rows, 0.6 + rows / 4])
    return np.column_stack([rows, np.repeat([0, 1], len(x))]).astype("float32")


x_train, y_train = both(data.x_train), np.tile(data.y_train, 2)
clear, faint = np.split(both(data.x_test), 2)


def network(normalized):
    inputs = keras.Input((785,))
    x, domain = inputs[:, :784], keras.ops.cast(inputs[:, 784], "int32")
    for _ in range(2):
        x = keras.layers.Dense(64)(x)
        x = normalized(x, domain)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


# %%
# One network an arm, whose weights are set anew for each seed.


def learn(batch_of, normalized):
    """Test accuracies on clear and on faint digits, every 20 steps, for each seed."""
    rate = keras.optimizers.schedules.CosineDecay(0.003, STEPS)
    run, runs = training.Run(network(normalized), keras.optimizers.Adam(rate)), []
    for seed in SEEDS:
        restart(run.model, run.optimizer, partial(network, normalized), seed=seed)
        random, rows = np.random.default_rng(seed), []
        for number in range(1, STEPS + 1):
            batch = batch_of(random, number)
            run.step(x_train[batch], y_train[batch])
            if number % 20 == 0:
                rows.append([run.evaluate(x, data.y_test)[1] for x in (clear, faint)])
        runs.append(rows)
    return np.array(runs)


# %%

ARMS = {
    "in turns": (batch_wrong, normalized_wrong),
    "mixed": (batch_right, normalized_wrong),
    "in turns, a population each": (batch_wrong, normalized_right),
    "mixed, a population each": (batch_right, normalized_right),
}
curves = {name: learn(*arm) for name, arm in ARMS.items()}

# %%

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.8), layout="constrained", sharey=True)
fig.suptitle("Two domains, by how they are trained")
steps = range(20, STEPS + 1, 20)
for domain, (ax, title) in enumerate(zip(axes, ("clear digits", "faint digits"), strict=True)):
    for colour, (name, scores) in enumerate(curves.items()):
        each = scores[..., domain].T
        ax.plot(steps, each, f"C{colour}", lw=0.8, alpha=0.6)
        ax.plot(steps, each.mean(1), f"C{colour}", lw=2.2, label=name)
    ax.set(title=title, xlabel="training step", ylabel="test accuracy", ylim=(0, 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The accuracies at the end.

end = {name: scores[:, -1] for name, scores in curves.items()}
for name, scores in end.items():
    print(f"{name:27} clear {scores[:, 0].round(2)}, faint {scores[:, 1].round(2)}")
turns, mixture, *each = end.values()
claim("turns_clear", turns[:, 0], "accuracy on clear digits, in turns", above=0.35, below=0.84)
claim("turns_faint", turns[:, 1], "accuracy on faint digits, in turns", below=0.5)
claim("mixed", mixture, "accuracy on clear and faint digits, mixed", above=0.75)
claim("each", each, "accuracy on both, a population each", above=0.85)
assert turns[:, 0].max() < mixture[:, 0].min() - 0.05, "mixing is better for the clear digits too"
assert np.mean(each) > mixture.mean() + 0.02, "a population each is better than mixing alone"


def found(batch_of):
    random = np.random.default_rng(0)
    batches = [x_train[batch_of(random, number)] for number in range(16)]
    model = network(normalized_wrong)
    report = doctor.examine(model, batches, only=["one_kind_a_batch"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of batches in turns:", *found(batch_wrong))
assert found(batch_wrong), "the check fires on batches in turns"
assert not found(batch_right), "and is silent on mixed ones"
