"""
Do small batches regularize? They slow learning by heart, and the test gains nothing
=====================================================================================

A record on 2,000 images of CIFAR-10: a network whose norms see 4 images at a time has a training
loss of :claim:`0.41 <four_at_200>` after 200 updates, and of :claim:`0.26 <whole_at_200>` where
they see all 128 of the update. So the noise delays learning by heart, and does not prevent it: both
end with every training image right, and classify :claim:`43 % <four>` and :claim:`46 % <whole>` of
the test images correctly. Whole batches with dropout of 30 % win :claim:`1.8 points <won>`.

.. symptom:: validation far worse than training
   :cause: the norms see few images at a time, and their noise was meant to regularize
   :check: train with norms over the whole batch: is the test as good or better?
   :likelihood: seldom
   :question: 1

.. symptom:: worse with small batches
   :cause: small batches are kept as a regularizer
   :check: compare with whole batches and dropout, over several seeds
   :likelihood: seldom
   :question: 1
"""

# %%
# Check
# -----
# How much of an output is the batch's? The same images are put into many batches, in training mode:
# the deviation of their outputs from batch to batch, over that from image to image. It is 0 if the
# rest of the batch has no say. Leave dropout out, for it counts as well.

import textwrap
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, records, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%


def noise_of_batches(model, x, size, batches=20, images=16):
    outputs, random = [], np.random.default_rng(0)
    with population.unchanged(model):
        for _ in range(batches):
            others = random.choice(np.arange(images, len(x)), size - images, replace=False)
            places = random.permutation(size)  # the order changes, too
            batch = np.concatenate([np.arange(images), others])[places]
            output = np.asarray(model(x[batch], training=True))
            outputs.append(output[np.argsort(places)][:images])
    return np.std(outputs, 0).mean() / np.std(np.mean(outputs, 0), 0).mean()


# %%
# Fix
# ---
# Let the norms see as many images as there are: synchronize them, or do without ghost batches. To
# regularize, take what has a dial and a place: dropout before the last layer, weight decay,
# augmentation.
#
# Wrong
# ^^^^^


def network_wrong():
    norm = partial(bnref.GhostBatchNorm, groups=25)  # 4 of 100 images at a time
    return models.perceptron(norm, inputs=(28, 28, 1))


# %%
# Right
# ^^^^^


def network_right():
    return models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1), dropout=0.5)


# %%
# Why
# ---
# Question 1 (whose statistics): in training, an image is normalized by its batch, so that its
# output depends on the company that it is drawn with. In batches of 100 that makes
# :claim:`0.09 <noise_whole>` of what tells images apart, by the check above, and
# :claim:`0.7 <noise_four>` where the norms see 4 of them at a time. Ioffe & Szegedy (`arXiv
# 1502.03167 <https://arxiv.org/abs/1502.03167>`_, section 3.4) found this noise to help, and could
# do with less dropout. Luo et al. 2019 (`arXiv 1809.00846 <https://arxiv.org/abs/1809.00846>`_)
# derive for one layer what it amounts to: normalization by the population, and a decay of γ.
#
# From N values the noise is of size √(3/2N)
# (:doc:`/gallery/pitfalls/plot_the_gap_falls_as_the_root_of_the_batch`). It changes the steps and,
# by another normalization in the test, the network that is used; to recompute the population, as
# here, takes the second away. What is left has no dial of its own, for the size of the batch sets
# other things too, and with 4 images it costs more than it gives, with dropout and without, at the
# end and where the test loss is lowest: :claim:`1.63 <lowest_whole>` with whole batches,
# :claim:`1.65 <lowest_four>` with 4 images. With 16 the test accuracy is that of whole batches,
# :claim:`46 % <sixteen>`; dropout wins at every size.
#
# How strong this is: two small networks, and nothing else that regularizes. Larger batches of the
# *update* are another question, for they change the noise of the gradient, too. Ghost batches of 32
# in large updates: :doc:`/gallery/variants/plot_ghost_batches`; more replicas:
# :doc:`/gallery/variants/plot_batch_size_per_replica`.
#
# Asked in `discuss.pytorch.org/t/72761 <https://discuss.pytorch.org/t/batch-norm-regularization/72761>`_
# and `community.deeplearning.ai/t/230911
# <https://community.deeplearning.ai/t/batch-normalization-for-regularization/230911>`_.
#
# Experiment
# ----------
# The record: three convolutions, 800 updates of 128 images, which are normalized 4, 16 or 128 at a
# time; group norm, for which no other image has a say, beside them. Two rates, five seeds.

provenance, record = records.read(records.path_of("noise_of_batches.csv"))
print(textwrap.fill(records.provenance_line(provenance), 95))
STEPS, RATES = np.unique(record["step"]), np.unique(record["rate"])


def curves(column, norm, images, dropout, rate):
    """What was measured, of shape (seeds, steps)."""
    chosen = (record["norm"] == norm) & (record["images"] == images)
    chosen &= (record["dropout"] == dropout) & (record["rate"] == rate)
    return record[column][chosen].reshape(-1, len(STEPS))


def at_best_rate(norm, images, dropout):
    """The rate with the best mean accuracy in the test at the end."""
    final = [curves("test_accuracy", norm, images, dropout, rate)[:, -1].mean() for rate in RATES]
    return RATES[np.argmax(final)]


# %%
# Live: 500 digits, 200 updates of 100, three seeds.

data = datasets.load("mnist").take(train=500, test=1000)


def trained(network):
    """The last network and the test accuracies, one a seed."""
    run, accuracies = training.Run(network(), keras.optimizers.SGD(0.1, momentum=0.9)), []
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(run.model, run.optimizer, network, seed=seed)
        run.train(data.x_train, data.y_train, steps=200, batch_size=100, seed=seed)
        population.recompute(run.model, np.split(data.x_train, 5))
        accuracies.append(run.evaluate(data.x_test, data.y_test)[1])
    return run.model, np.array(accuracies)


live = {}
live["four"], wrong = trained(network_wrong)
live["whole"], whole_live = trained(partial(models.perceptron, bnref.BatchNorm, inputs=(28, 28, 1)))
_, right = trained(network_right)

# %%

fig, (training_axis, test_axis) = plt.subplots(2, 1, figsize=(6.2, 5), sharex=True)
for colour, images in enumerate((4, 16, 128)):
    for dropout, style in ((0.0, "-"), (0.3, "--")):
        rate = at_best_rate("batch", images, dropout)
        label = f"{images} images" + (", dropout" if dropout else "")
        for axis, column in ((training_axis, "loss"), (test_axis, "test_accuracy")):
            rows = curves(column, "batch", images, dropout, rate)
            axis.plot(STEPS, rows.mean(0), f"C{colour}{style}", label=label)
            if not dropout:
                low, high = rows.min(0), rows.max(0)
                axis.fill_between(STEPS, low, high, color=f"C{colour}", alpha=0.15, lw=0)
training_axis.set(title="Learned by heart", ylabel="training loss", yscale="log")
test_axis.set(title="In the test", ylabel="test accuracy", xlabel="updates")
test_axis.set_ylim(0.36, 0.5)
test_axis.legend(title="the norms see", ncols=3, fontsize=8, loc="lower right")
plt.show()

# %%
# Proof
# -----

final = {}
for norm, images in (("batch", 4), ("batch", 16), ("batch", 128), ("group", 1)):
    for dropout in (0.0, 0.3):
        rate = at_best_rate(norm, images, dropout)
        assert rate == 0.03, "the lower rate is the better one for every arm"
        final[images, dropout] = curves("test_accuracy", norm, images, dropout, rate)[:, -1]
        known = curves("accuracy", norm, images, dropout, rate)[:, -1]
        assert known.mean() > 0.99, "learned by heart"
four, whole = (curves("loss", "batch", images, 0.0, 0.03) for images in (4, 128))
claim("four_at_200", four[:, 1], "training loss at 200, of 4 images", above=0.3, below=0.52)
claim("whole_at_200", whole[:, 1], "training loss at 200, of 128", above=0.18, below=0.34)
assert np.mean(four[:, 1]) > 1.4 * np.mean(whole[:, 1]), "it learns by heart more slowly"
claim("four", final[4, 0.0], "test accuracy, of 4 images", above=0.42, below=0.45)
claim("sixteen", final[16, 0.0], "test accuracy, of 16", above=0.445, below=0.48, of="mean")
claim("whole", final[128, 0.0], "test accuracy, of 128", above=0.445, below=0.48)
won = {images: final[images, 0.3] - final[images, 0.0] for images in (1, 4, 16, 128)}
claim("won", won[128], "won by dropout, of 128 images", above=0.012, below=0.022, of="mean")
assert all(0.01 < each.mean() < 0.03 for each in won.values()), "dropout wins at each size"
for dropout in (0.0, 0.3):
    assert final[4, dropout].max() < final[128, dropout].max(), "4 images are no better"
    assert final[4, dropout].mean() < final[128, dropout].mean() - 0.015, "but worse"
    assert abs(np.mean(final[16, dropout] - final[128, dropout])) < 0.005, "16 are as good as 128"
    assert final[1, dropout].mean() < final[128, dropout].mean() - 0.01, "group norm is no better"

# %%

lowest = {images: curves("test_loss", "batch", images, 0.0, 0.03).min(1) for images in (4, 128)}
claim("lowest_whole", lowest[128], "lowest test loss, of 128 images", above=1.58, below=1.68)
claim("lowest_four", lowest[4], "lowest test loss, of 4 images", above=1.62, below=1.7)
assert lowest[4].mean() > lowest[128].mean(), "stopped in time, 4 images are no better either"
noise = {name: noise_of_batches(model, data.x_train, 100) for name, model in live.items()}
claim("noise_four", noise["four"], "batch over images, 4 at a time", above=0.25, below=0.9)
claim("noise_whole", noise["whole"], "batch over images, 100", above=0.05, below=0.15)
print("live, of 4 images:", np.round(wrong, 3), "of 100:", np.round(whole_live, 3))
print("of 100, with dropout:", np.round(right, 3))
assert wrong.mean() < min(whole_live.mean(), right.mean()) - 0.005, "4 at a time are worse"
