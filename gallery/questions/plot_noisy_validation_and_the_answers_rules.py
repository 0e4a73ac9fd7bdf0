"""
Noisy validation: do the answers' rules hold?
=============================================

Of the first answer's rules two hold **if the data are shuffled**: a momentum for the number of
steps (after 100 steps 0.9 is at 0.7, 0.99 at 0.8 and 0.999 at 1.3; after 3,000 all are equal), and
batches of 14 or more (batches of 4 end twice as high). Utterance by utterance they are not enough:
batches of 14 end at **4.8**, and with momentum 0.9 at 6.7. The arithmetic slips: after 100 steps
0.99 has covered **63.4 %**, not 73.4 %. After the 277,200 steps before the post's first test it has
covered all, so the start is not the post's trouble. The second answer says that γ and β make
``training=False`` better: they make **no difference**.

The whole story: :doc:`/gallery/questions/plot_noisy_validation`. These rules are about question 2,
*remembered how*; the post's trouble is more likely question 1, *whose statistics*, for which the
answer has a rule too, to randomize the order.

.. symptom:: no better than without batch norm
   :cause: ``training=False`` while training: it normalizes by 0 and 1 for ever
   :check: ``np.any(layer.moving_mean)`` is False after training
   :likelihood: often
   :question: 3
"""

import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import moving_average
from bnref_gallery import records

# %%
# The share that the average has covered
# --------------------------------------
# A layer of momentum 0.99 sees a hundred batches of mean 1 and variance 0:

layer = bnref.BatchNorm(momentum=0.99)
for _ in range(100):
    layer(np.ones((14, 1), "f4"), training=True)
covered = float(layer.moving_mean[0])
left = 277_200 * np.log10(0.99)  # the power of ten of what is left of the start
print(f"covered after 100 steps: {covered:.1%}; left after 277,200 steps: 10^{left:.0f}")

# %%
# Everything else is recorded: speech with noise in, without it out, three layers of 512, Adam
# 0.0001, three starts. One training serves all momenta, as training does not read the average.

provenance, sweep = records.read(records.path_of("noisy_validation.csv"))
print(records.provenance_line(provenance))
MOMENTA, SIZES, STEPS = ("0.9", "0.99", "0.999"), (4, 14, 32, 128), (100, 300, 1000, 3000)
SEEDS = len(set(sweep["seed"]))


def losses(column="0.99", order="shuffled", norm="batch norm", batch=128, step=None):
    """Validation losses, shape (starts, tests): after `step` steps, or of those after 1,500."""
    chosen = (sweep["order"] == order) & (sweep["norm"] == norm) & (sweep["batch"] == batch)
    chosen &= sweep["step"] == step if step else sweep["step"] > 1500
    return sweep[column][chosen].reshape(SEEDS, -1)


by_momentum = {rho: np.array([losses(rho, step=t)[:, 0] for t in STEPS]) for rho in MOMENTA}
by_momentum["debiased"] = np.array([losses("debiased", step=t)[:, 0] for t in STEPS])
by_size = {
    (order, rho): np.array([np.median(losses(rho, order, batch=n), 1) for n in SIZES])
    for order in ("shuffled", "utterances")
    for rho in ("0.9", "0.99", "recomputed")
}
fig, (left_ax, right_ax) = plt.subplots(1, 2, figsize=(6.2, 4.2), layout="constrained")
for (rho, each), colour in zip(by_momentum.items(), ("C2", "C1", "C3", "C4"), strict=True):
    left_ax.plot(STEPS, each.mean(1), colour + "o-", label=f"momentum {rho}")
    left_ax.fill_between(STEPS, each.min(1), each.max(1), color=colour, alpha=0.15)
left_ax.lines[-1].set(label="debiased 0.99", linestyle="--")
left_ax.set(title="Shuffled, batches of 128", xlabel="step", ylabel="validation loss")
left_ax.set(xscale="log", xticks=STEPS, xticklabels=["100", "300", "1,000", "3,000"])
for (order, rho), each in by_size.items():
    style = {"0.9": "o:", "0.99": "o-", "recomputed": "s--"}[rho]
    colour = "C0" if order == "shuffled" else "C1"
    right_ax.plot(SIZES, each.mean(1), colour + style, ms=4)
right_ax.set(title="After step 1,500", xlabel="examples in a batch", xscale="log", yscale="log")
right_ax.set(xticks=SIZES, xticklabels=SIZES, yticks=[0.5, 1, 2, 5, 10, 20], ylim=(0.45, 60))
right_ax.set(yticklabels=["0.5", "1", "2", "5", "10", "20"])
for ax in (left_ax, right_ax):
    ax.minorticks_off()
for style, name in (("C0-", "shuffled, 0.99"), ("C1-", "by utterance, 0.99")):
    right_ax.plot([], [], style, label=name)
for style, name in (("k:", "momentum 0.9"), ("k--", "recomputed")):
    right_ax.plot([], [], style, label=name)
left_ax.legend(loc="upper right", fontsize="small")
right_ax.legend(loc="upper right", fontsize="small")
plt.show()

# %%
# Debiasing is as the answer says, and helps at 100 steps a little: the debiased average still holds
# the statistics of weights that have gone. With dropout (the post has it, but feeds 1 as the share
# to keep) the order matters too. To check your own model: is ``momentum ** steps`` below 0.01?
# If not, lower the momentum or recompute. If it is, and validation jumps, look at the order.
#
# Conclusion
# ----------

assert abs(covered - 0.634) < 5e-4 and np.isclose(
    moving_average.start_weight(0.99, 100), 0.366, atol=1e-3
)
assert left < -1200
for name, each in by_momentum.items():
    print(f"momentum {name:9} shuffled, after {STEPS} steps: {each.mean(1).round(2)}")
for (order, rho), each in by_size.items():
    print(f"{order:10} {rho:10} batches of {SIZES}: {each.mean(1).round(2)}")
first, last = (np.array([each[i].mean() for each in by_momentum.values()]) for i in (0, -1))
assert np.allclose(first[:3], [0.7, 0.81, 1.26], atol=0.01) and np.ptp(last[:3]) < 0.03
assert first[0] < first[3] < first[1], "debiased: between"
four, fourteen, *more = by_size["shuffled", "0.99"].mean(1)
assert 1.9 < four / min(more) < 2.3 and fourteen < 1.15 * min(more)
alike = by_size["utterances", "0.99"].mean(1)
assert alike.min() > 1.2 * min(more), "by utterance no size is as good"
assert np.allclose([alike[1], by_size["utterances", "0.9"].mean(1)[1]], [4.84, 6.67], atol=0.05)
for size in (32, 128):
    off, none = (losses(norm=norm, batch=size) for norm in ("off", "none"))
    print(f"batches of {size}: training=False {off.mean():.3f}, no norm at all {none.mean():.3f}")
    assert abs(off.mean() - none.mean()) < 0.005
dropped = {
    order: losses(order=order, norm="batch norm, dropout") for order in ("shuffled", "utterances")
}
jumps = {order: np.abs(np.diff(each)).mean() for order, each in dropped.items()}
print("with dropout:", {order: round(float(each), 3) for order, each in jumps.items()})
assert jumps["utterances"] > 4 * jumps["shuffled"]
