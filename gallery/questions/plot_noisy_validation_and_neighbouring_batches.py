"""
How much does the moving average fluctuate if neighbouring batches are alike?
=============================================================================

By **√[(1 − ρ)/(1 + ρ) · (1 + ρφ)/(1 − ρφ)]** times the standard deviation of one batch's mean.
Here ρ is the momentum, and φ the correlation of a batch's mean with the next one's. And a batch's
mean itself hardly settles as the batch grows. On speech read utterance by utterance, a batch of 128
frames is worth **two or three** independent ones, and the moving average fluctuates **seven to
eleven times** as much as that of shuffled frames.

The first answer to :doc:`noisy validation </gallery/questions/plot_noisy_validation>` asks for
batches of 14 or more. That counts examples; what counts is how many of them are independent.
Question 1, *whose statistics*: a batch of neighbours has its utterance's, not the population's.

.. symptom:: validation jumps
   :doctor: batches_not_shuffled
   :cause: large batches, but of neighbours: 128 frames of one utterance are worth two or three
   :check: ``np.mean(N * means.var(0) / examples.var(0))``, of the means of many batches of N: far
      above 1?

.. symptom:: worse with small batches
   :doctor: batches_not_shuffled
   :check: draw the batch from many files: does the same batch size do better?
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor
from bnref.moving_average import fluctuation
from bnref_gallery import datasets

# %%
# No network: the moving mean of a batch-norm layer that reads the noisy frames themselves, 257
# channels of variance 1, in both orders. What it does is then the statistics' own doing.

train, _ = datasets.load("speech").denoising()
SIZES, MOMENTA, EPOCHS, STEPS = (4, 14, 32, 128), (0.9, 0.99), 4, 3000
random = np.random.default_rng(0)


def batches(size, shuffled):
    """Means of the batches of four epochs or more, shape (steps, 257)."""
    utterances, order = np.split(np.arange(train.starts[-1]), train.starts[1:-1]), []
    for _ in range(max(EPOCHS, -(-STEPS * size // train.starts[-1]))):
        turns = random.permutation(len(utterances))
        order += [utterances[turn] for turn in turns]
    order = np.concatenate(order)
    order = random.permutation(order) if shuffled else order
    whole = order[: len(order) // size * size].reshape(-1, size)
    return np.array([train.noisy[index].mean(0) for index in whole])


def followed(means, rho):
    """The moving mean after each batch, shape (steps, 257)."""
    average, found = 0 * means[0], np.empty_like(means)
    for step, mean in enumerate(means):
        found[step] = average = rho * average + (1 - rho) * mean
    return found


layer, some = bnref.BatchNorm(momentum=0.9), batches(128, shuffled=False)[:50]
for mean in some:
    layer(np.stack([mean - 1, mean + 1]), training=True)
assert np.allclose(layer.moving_mean, followed(some, 0.9)[-1], atol=1e-4), "that is what it does"

# %%
# From the batches' means come their variance v and their correlation φ; from those the closed form.
# It takes φᵏ for the correlation of batches k apart; in speech that holds only roughly, and the
# closed form to a factor of about two.

found = []
for shuffled in (False, True):
    for size in SIZES:
        means = batches(size, shuffled)
        apart = means - means.mean(0)
        v = apart.var(0)
        phi = (apart[1:] * apart[:-1]).mean(0) / v
        for rho in MOMENTA:
            steady = followed(means, rho)[500:]  # the start keeps 0.99⁵⁰⁰ = 0.7 %
            closed = np.sqrt(np.mean(fluctuation(rho, phi) ** 2 * v))
            measured = np.sqrt(steady.var(0).mean())
            independent = np.sqrt(1 / size) * fluctuation(rho)
            row = (shuffled, size, rho, v.mean(), phi.mean(), measured, closed, independent)
            found.append(row)
table = np.array(found)

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4.0), layout="constrained")
for shuffled, colour, name in ((0, "C1", "by utterance"), (1, "C0", "shuffled")):
    rows = table[(table[:, 0] == shuffled) & (table[:, 2] == 0.9)]
    left.loglog(rows[:, 1], np.sqrt(rows[:, 3]), colour + "o-", label=name)
    for rho, style in ((0.9, "o-"), (0.99, "s--")):
        rows = table[(table[:, 0] == shuffled) & (table[:, 2] == rho)]
        right.loglog(rows[:, 1], rows[:, 5], colour + style[0], ms=5)
        right.loglog(rows[:, 1], rows[:, 6], colour + style[1:], label=f"{name}, ρ = {rho}")
left.set(title="Mean of one batch", ylabel="standard deviation", ylim=(0.07, 1.2))
right.set(title="Moving mean: dots measured,\nlines the closed form")
for ax, ticks in ((left, (0.1, 0.2, 0.5, 1)), (right, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))):
    ax.set(yticks=ticks, yticklabels=ticks)
for ax in (left, right):
    ax.set(xlabel="frames in a batch", xticks=SIZES, xticklabels=SIZES)
    ax.minorticks_off()
fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# A higher momentum does help the average: with 0.99 it fluctuates about half as much as with 0.9,
# or less. In a network, where the weights move too, it is no cure: in that of the post 0.99 jumps
# as much as 0.9. What helps is to shuffle. To check your own data, compute ``N * means.var(0) /
# examples.var(0)`` over many batches of N: about 1 if the examples of a batch are independent; if
# not, a batch is worth N over that. So counts, for the norms of a model,
# ``bnref.doctor.examine(model, data, only=["batches_not_shuffled"])``. :doc:`/explorer` draws all
# of this.
#
# Conclusion
# ----------

for order, size, rho, v, phi, measured, closed, independent in table:
    print(
        f"{'shuffled' if order else 'by utterance':12} N = {size:3.0f}, worth {1 / v:5.1f}, φ = "
        f"{phi:5.2f}, ρ = {rho}: {measured:.3f}, closed form {closed:.3f}, if independent "
        f"{independent:.3f}"
    )
alike, mixed = table[:8], table[8:]
assert 1.5 < 1 / alike[6, 3] < 3.5, "128 neighbours are worth two or three"
assert np.sqrt(alike[6, 3] / alike[0, 3]) > 0.6, "one batch's mean hardly settles"
assert np.all(np.abs(mixed[:, 1] * mixed[:, 3] - 1) < 0.15), "shuffled, each counts"
assert np.all(np.abs(np.log(alike[:, 5] / alike[:, 6])) < np.log(2.2)), "roughly the closed form"
assert np.all(np.abs(np.log(mixed[:, 5] / mixed[:, 7])) < np.log(1.4))
assert 6 < np.median(alike[:, 5] / mixed[:, 5]) < 12, "seven to eleven times"
assert np.all(alike[1::2, 5] < 0.6 * alike[::2, 5])


def found(frames):
    model = keras.Sequential([keras.Input((257,)), keras.layers.BatchNormalization()])
    report = doctor.examine(model, frames, batch_size=128, only=["batches_not_shuffled"])
    return [finding.evidence for finding in report.findings]


wrong, right = found(train.noisy), found(random.permutation(train.noisy))
print("the doctor, by utterance:", *wrong)
assert wrong, "the check fires on utterances"
assert not right, "and is silent on shuffled frames"
