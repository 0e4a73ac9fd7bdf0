"""
How much does the moving average fluctuate if neighbouring batches are alike?
=============================================================================

Much more than the size of the batches tells. On speech that comes utterance by utterance, a batch
of 128 frames is worth only :claim:`1.8 <worth>` independent ones, and the moving average fluctuates
:claim:`7 to 12 times <times>` as much as that of shuffled frames. Its standard deviation is
√[(1 − ρ)/(1 + ρ) · (1 + ρφ)/(1 − ρφ)] times that of one batch's mean, where ρ is the momentum, and
φ the correlation of a batch's mean with that of the next batch.

.. symptom:: validation jumps
   :doctor: batches_not_shuffled
   :cause: large batches, but of neighbours: 128 frames of one utterance are worth about two
   :check: ``np.mean(N * means.var(0) / examples.var(0))``, of the means of many batches of N: far
      above 1?

.. symptom:: worse with small batches
   :doctor: batches_not_shuffled
   :check: draw the batch from many files: does the same batch size do better?
"""

# %%
# Check
# -----
# It takes no training. By hand, a batch of N is worth N over the number that the first point asks
# for: about N if its examples are independent. :doc:`/explorer` draws what that does to an average.

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor
from bnref.moving_average import fluctuation
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Shuffle the examples of all files, and not the files. ``files`` is a list of arrays, here of the
# numbers of the frames of each utterance.
#
# Wrong
# ^^^^^


def order_by_file(files, random):
    turns = random.permutation(len(files))
    return np.concatenate([files[k] for k in turns])


# %%
# Right
# ^^^^^


def order_by_frame(files, random):
    frames = np.concatenate(files)
    return random.permutation(frames)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): those of one utterance normalize, not those of the
# population. The first answer to :doc:`noisy validation </gallery/questions/plot_noisy_validation>`
# asks for batches of 14 or more. That counts examples; what counts is how many are independent. By
# utterance a batch's mean hardly settles as the batch grows: from 4 frames to 128 its standard
# deviation falls by a factor of :claim:`1.2 <settled>`, that of shuffled frames by
# :claim:`5.7 <settled_shuffled>`.
#
# In the formula the correlation of the means of batches k apart is φᵏ. In speech that holds only
# roughly. The measured fluctuation is :claim:`0.8 to 1.4 times <closed>` what the formula says.
#
# A higher momentum helps the average: with 0.99 it fluctuates :claim:`0.4 times <momentum>` as much
# as with 0.9. In a network the weights move too, and there it is no cure: a network like that
# of the post, a quarter as wide, jumps about as much with 0.99 as with 0.9, in batches of 128.
#
# Experiment
# ----------
# There is no network here: a batch norm normalizes the noisy frames themselves, 257 channels of
# variance 1, in both orders. So only the statistics act.

train, _ = datasets.load("speech").denoising()
files = np.split(np.arange(train.starts[-1]), train.starts[1:-1])
SIZES, MOMENTA, STEPS = (4, 14, 32, 128), (0.9, 0.99), 3000


def means_of_batches(order_of, size, seed):
    """Of the files four times or more, and 3,000 steps or more, shape (steps, 257)."""
    random = np.random.default_rng(seed)
    epochs = max(4, -(-STEPS * size // train.starts[-1]))
    order = order_of(files * epochs, random)
    whole = order[: len(order) // size * size].reshape(-1, size)
    return np.array([train.noisy[index].mean(0) for index in whole])


def followed(means, rho):
    """The moving mean after each batch, shape (steps, 257)."""
    average, found = 0 * means[0], np.empty_like(means)
    for step, mean in enumerate(means):
        average = rho * average + (1 - rho) * mean
        found[step] = average
    return found


# %%
# From the means of the batches come their variance v and their correlation φ, and from those the
# closed form. Beside it stands what independent frames would give.


def correlation(means):
    """Of each batch's mean with the next one's, for each channel."""
    apart = means - means.mean(0)
    return (apart[1:] * apart[:-1]).mean(0) / apart.var(0)


def fluctuations(means, size, rho):
    """Standard deviation of the moving mean: measured, closed form, and if all were independent."""
    steady = followed(means, rho)[500:]  # the start keeps 0.99⁵⁰⁰ = 0.7 %
    closed = fluctuation(rho, correlation(means)) ** 2 * means.var(0)
    return np.sqrt(steady.var(0).mean()), np.sqrt(closed.mean()), fluctuation(rho) / np.sqrt(size)


seeds = range(scale.at_scale(quick=3, full=10))
orders = {"by utterance": order_by_file, "shuffled": order_by_frame}
variance, alike, moving = {}, {}, {}
for name, order_of in orders.items():
    for size in SIZES:
        runs = [means_of_batches(order_of, size, seed) for seed in seeds]
        variance[name, size] = np.array([means.var(0).mean() for means in runs])
        alike[name, size] = np.mean([correlation(means) for means in runs])
        for rho in MOMENTA:
            each = [fluctuations(means, size, rho) for means in runs]
            moving[name, size, rho] = np.array(each)  # (seeds, 3)

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4.0), layout="constrained")
for name, colour in (("by utterance", "C1"), ("shuffled", "C0")):
    deviations = [np.sqrt(variance[name, size].mean()) for size in SIZES]
    left.loglog(SIZES, deviations, colour + "o-", label=name)
    for rho, style in ((0.9, "o-"), (0.99, "s--")):
        rows = np.array([moving[name, size, rho].mean(0) for size in SIZES])
        right.loglog(SIZES, rows[:, 0], colour + style[0], ms=5)
        right.loglog(SIZES, rows[:, 1], colour + style[1:], label=f"{name}, ρ = {rho}")
left.set(title="Mean of one batch", ylabel="standard deviation", ylim=(0.07, 1.2))
right.set(title="Moving mean: dots measured,\nlines the closed form")
right.set(ylabel="standard deviation")
for ax, ticks in ((left, (0.1, 0.2, 0.5, 1)), (right, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))):
    ax.set(yticks=ticks, yticklabels=ticks)
    ax.set(xlabel="frames in a batch", xticks=SIZES, xticklabels=SIZES)
    ax.minorticks_off()
fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# What a batch is worth, and how the moving mean fluctuates, in each order.

for (name, size, rho), found in moving.items():
    measured, closed, independent = found.mean(0)
    worth = 1 / variance[name, size].mean()
    print(f"{name:12} N = {size:3}, worth {worth:5.1f}, φ = {alike[name, size]:5.2f}, ", end="")
    print(f"ρ = {rho}: {measured:.3f}, closed form {closed:.3f}, independent {independent:.3f}")
claim("worth", 1 / variance["by utterance", 128], "worth of 128 frames", above=1.4, below=3.5)
for name, size in variance:
    if name == "shuffled":
        each = size * variance[name, size]
        assert np.abs(each - 1).max() < 0.15, f"shuffled, each of {size} frames counts"
fall = {name: np.sqrt(variance[name, 4] / variance[name, 128]) for name in orders}
claim("settled", fall["by utterance"], "fall from 4 to 128 frames", above=1, below=1.67)
claim("settled_shuffled", fall["shuffled"], "the same, shuffled", above=5, below=6.4)

utterance, mixed = (
    np.array([[moving[name, size, rho] for rho in MOMENTA] for size in SIZES]) for name in orders
)  # (sizes, momenta, seeds, 3)
times = (utterance[..., 0] / mixed[..., 0]).mean(2)
claim("times", times, "fluctuation by utterance over shuffled", above=4, below=16)
assert 6 < np.median(times) < 12, "and in the middle between 6 and 12"
closed = (utterance[..., 0] / utterance[..., 1]).mean(2)
claim("closed", closed, "measured over closed form, by utterance", above=1 / 2.2, below=2.2)
apart = np.abs(np.log(mixed[..., 0] / mixed[..., 2]))
assert apart.max() < np.log(1.4), "shuffled, it fluctuates as that of independent frames"
ratio = utterance[:, 1, :, 0] / utterance[:, 0, :, 0]
claim("momentum", ratio, "fluctuation with 0.99 over that with 0.9", below=0.6)

# %%
# The layer does what ``followed`` says, and the doctor on frames in both orders.

layer, some = bnref.BatchNorm(momentum=0.9), means_of_batches(order_by_file, 128, 0)[:50]
for mean in some:
    layer(np.stack([mean - 1, mean + 1]), training=True)
assert np.allclose(layer.moving_mean, followed(some, 0.9)[-1], atol=1e-4), "the layer's own mean"


def found(order_of):
    model = keras.Sequential([keras.Input((257,)), keras.layers.BatchNormalization()])
    frames = train.noisy[order_of(files, np.random.default_rng(0))]
    report = doctor.examine(model, frames, batch_size=128, only=["batches_not_shuffled"])
    return [finding.evidence for finding in report.findings]


print("the doctor, by utterance:", *found(order_by_file))
assert found(order_by_file), "the check fires on utterances"
assert not found(order_by_frame), "and is silent on shuffled frames"
