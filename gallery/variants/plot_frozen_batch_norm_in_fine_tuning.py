"""
Frozen batch norm wins in tiny batches, and loses where the data's scale changed
================================================================================

Fine-tuned on 200 images of new digits in batches of 2, a network with frozen batch norm gets
**more than 30 points** further than with batch statistics; in batches of 16 the two end within
10. Fine-tuned on images 20 times darker, it ends **more than 4 points behind**, for its
statistics are those of bright images; recomputed on the dark ones, it needs no fine-tuning at all.

The symptom: fine-tuning with small batches makes a good model worse. Question 3, *used when*: batch
norm trains on the batch's statistics, and two images hardly have any.
:class:`bnref.layers.FrozenBatchNorm` uses the population's throughout, and they never move.

.. symptom:: fine-tuned model collapses
   :doctor: small_batches
   :cause: batches of a few images replace good statistics by noise
   :check: fine-tune with ``layer.trainable = False`` on every norm
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale

# %%
# The layers have the same variables, so the weights of one model fit another::
#
#     tuned = network(bnref.FrozenBatchNorm)
#     tuned.set_weights(trained.get_weights())  # without this line it normalizes by 0 and 1
#
# ``BatchNorm(trainable=False)`` is frozen too, and holds γ and β besides, like the frozen layers of
# detectron2 and torchvision. Here a network learns 1,500 images of the digits 0 to 4 and is
# tuned on 200 of 5 to 9; or it learns all digits and is tuned on 200 darkened ones.

ARMS = {
    "batch statistics": partial(bnref.BatchNorm, momentum=0.9),
    "frozen": bnref.FrozenBatchNorm,
    "frozen, γ and β too": partial(bnref.FrozenBatchNorm, trainable=False),
    "recomputed, then frozen": bnref.FrozenBatchNorm,
    "not trainable": partial(bnref.BatchNorm, trainable=False),
}
data = datasets.load("mnist").take(train=3500, test=800)
network = partial(models.perceptron, inputs=(28, 28, 1), units=(64, 64))


def of(digits, scale=1.0):  # 1,500 images to learn, 200 to tune, and to test
    train, test = np.isin(data.y_train, digits), np.isin(data.y_test, digits)
    x, y = data.x_train[train] * np.float32(scale), data.y_train[train]
    test = data.x_test[test] * np.float32(scale), data.y_test[test]
    return (x[:1500], y[:1500]), (x[-200:], y[-200:]), test


def learnt(x, y, seed):
    keras.utils.set_random_seed(seed)
    model = network(bnref.BatchNorm)
    training.train(model, x, y, steps=150, batch_size=64, seed=seed)
    population.recompute(model, np.split(x, 3))
    return model.get_weights()


def tuned(arm, weights, task, size, seed):  # accuracies; to ``moved``, how far statistics went
    _, tuning, test = task
    for norm in (bnref.BatchNorm, ARMS[arm]):  # a frozen layer has nothing to recompute
        model = network(norm)
        model.set_weights(weights)
        if norm is bnref.BatchNorm and arm.startswith("recomputed"):
            population.recompute(model, [tuning[0]])
            weights = model.get_weights()
    options = {"steps": 120, "batch_size": size, "every": 20, "seed": seed}
    options["measure"] = lambda run: {"accuracy": run.evaluate(*test)[1]}
    history = training.train(model, *tuning, **options)
    moved[arm].append(float(np.abs(model.layers[2].moving_mean - weights[4]).max()))
    return history["accuracy"]


low, high, every, dark = of(range(5)), of(range(5, 10)), of(range(10)), of(range(10), 0.05)
names, moved = list(ARMS), {arm: [] for arm in ARMS}
bases = [
    (learnt(*low[0], i), learnt(*every[0], i)) for i in range(scale.at_scale(quick=3, full=10))
]
panels = {
    "New digits, batches of 2": (0, high, 2, names[:3]),
    "New digits, batches of 16": (0, high, 16, names[:2]),
    "Darker, batches of 16": (1, dark, 16, [*names[:2], names[3]]),
}
runs = {title: {} for title in panels}
for title, (base, task, size, arms) in panels.items():
    for arm in arms:
        tunings = (tuned(arm, start[base], task, size, i) for i, start in enumerate(bases))
        runs[title][arm] = np.array([*tunings])

fig, axes = plt.subplot_mosaic("ab;cc", figsize=(6.2, 5), layout="constrained", sharey=True)
for ax, (title, of_title) in zip(axes.values(), runs.items(), strict=True):
    for arm, colour in zip(names, ("C1", "C0", "C4", "C2"), strict=False):
        values = of_title.get(arm, np.zeros((1, 7)) + np.nan)
        ax.plot(range(0, 121, 20), values.mean(0), colour, label=arm)
        ax.fill_between(range(0, 121, 20), values.min(0), values.max(0), color=colour, alpha=0.2)
    ax.set(title=title, ylim=(0, 1), xlabel="step")
fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# In small batches, freeze; whether γ and β learn makes no difference here. After a change of scale,
# sensor or unit, recompute the population on new images first, unlabelled. Large batches: either.
# To check your own model: how far is ``moving_variance`` from what a recomputation gives? Whether a
# batch is too small for it says ``bnref.doctor.examine(model, data, only=["small_batches"])``.
#
# Conclusion
# ----------

last = {title: {arm: v[:, -1].mean().round(3) for arm, v in runs[title].items()} for title in runs}
two, sixteen, darker = last.values()
for title in last:
    print(title, *(f"{arm} {value:.3f}" for arm, value in last[title].items()), sep="; ")
batch, frozen, held, recomputed, _ = names
assert two[frozen] - two[batch] > 0.3 and abs(two[held] - two[frozen]) < 0.1
assert abs(sixteen[frozen] - sixteen[batch]) < 0.1 and darker[batch] - darker[frozen] > 0.04
before = runs["Darker, batches of 16"][recomputed][:, 0].mean()
assert before > 0.8 and darker[recomputed] - before < 0.03, "no fine-tuning is needed"
assert min(moved[batch]) > 0.01 and max(moved[frozen] + moved[held] + moved[recomputed]) == 0
same = tuned(names[4], bases[0][0], high, 2, 0) - runs["New digits, batches of 2"][held][0]
assert np.abs(same).max() < 0.02, "not trainable is frozen"


def found(arm):
    model = network(ARMS[arm])
    model.set_weights(bases[0][0])
    report = doctor.examine(model, high[1], batch_size=2, only=["small_batches"])
    return [finding.evidence for finding in report.findings]


evidence = found("batch statistics")
print("the doctor, of the wrong model:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found("frozen"), "and is silent on the right one"
