"""
Why does validation jump when batch norm is trained with training=True?
=======================================================================

Because the batches are neighbours, not because the momentum is too high. Trained **utterance by
utterance**, a network for speech with ``training=True`` validates at 0.64 and jumps by **0.12** from
test to test, as the post's does (0.13); with ``training=False`` throughout at 0.53 and by 0.02
(post: 0.03). Shuffled, the same frames give **0.50** and jumps of 0.01, with any momentum. A
momentum of 0.9, the accepted answer, cures nothing here; in smaller batches it makes things worse.

`The post <https://stackoverflow.com/questions/50047653>`_ predicts one clean frame of speech from
seven noisy ones and prints the validation loss every 277,200 steps. Question 1, *whose statistics*,
is answered wrongly: a batch of one utterance has that utterance's, and the population follows the
last few of them.

.. symptom:: validation jumps
   :cause: neighbouring batches are alike, so the population is that of the last few
   :check: recompute it (:func:`bnref.population.recompute`) on shuffled batches: does the loss fall?
   :likelihood: usual
   :question: 1

.. symptom:: validation far worse than training
   :cause: each batch is of one recording, speaker or class
   :check: shuffle examples, not files, and train the same number of steps
   :likelihood: often
   :question: 1
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import datasets, devices, models, records, training

# %%
# Recorded: the post's three layers at a quarter of their width, Adam 0.0001, batches of 128, 3,000
# steps, three starts, on 373 utterances with noise added to each at a ratio of its own.

provenance, sweep = records.recorded("noisy_validation.csv")
print(records.provenance_line(provenance))
LATE = sweep["step"] > 1500


def series(order, norm, batch, column):
    """Validation losses after step 1,500, shape (starts, tests)."""
    chosen = (sweep["order"] == order) & (sweep["norm"] == norm) & (sweep["batch"] == batch)
    return sweep[column][chosen & LATE].reshape(len(set(sweep["seed"])), -1)


def jump(losses):
    """Mean change from one test to the next."""
    return np.abs(np.diff(losses)).mean()


POST = np.array([
    0.929624, 0.992692, 0.814033, 0.858562, 1.042705, 0.665418, 0.753507, 0.700503, 0.508338, 0.761886,
    0.787044, 0.817034, 0.726586, 0.901634, 0.633383, 0.783920, 0.528140, 0.847496, 0.804937, 0.828761,
    0.802314, 0.855557, 0.702335, 0.764318, 0.776465, 0.719034, 0.678497, 0.596230, 0.739280, 0.970555,
])  # fmt: skip
POST_OFF = np.array([0.474313, 0.391002, 0.369357, 0.366732, 0.383477, 0.346027, 0.336518, 0.368153,
                     0.330749, 0.322070, 0.335551])  # fmt: skip
ARMS = {
    "training=True, utterance by utterance": ("utterances", "batch norm", 128, "0.99"),
    "the same, momentum 0.9": ("utterances", "batch norm", 128, "0.9"),
    "the same, recomputed before each test": ("utterances", "batch norm", 128, "recomputed"),
    "training=False, utterance by utterance": ("utterances", "off", 128, "0.99"),
    "training=True, shuffled": ("shuffled", "batch norm", 128, "0.99"),
}
found = {name: series(*arm) for name, arm in ARMS.items()}
colours = ("C1", "C3", "C4", "C2", "C0")
fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4.2), layout="constrained", sharey=True)
left.plot(POST[-15:], "C1o-", ms=4)
left.plot(POST_OFF, "C2o-", ms=4)
left.set(title="The post", xlabel="test", ylabel="validation loss", ylim=(0.2, 1.25))
for (name, losses), colour in zip(found.items(), colours, strict=True):
    right.plot(losses[0], f"{colour}o-", ms=4, label=name)
right.set(title="Here, one start", xlabel="test, every 100 steps")
fig.legend(loc="outside lower center", ncols=1)
plt.show()

# %%
# The same in small, live: one layer of 256, batches of 32, momentum 0.9. The two arms see the same
# frames; only the order differs.

train, test = datasets.load("speech").denoising(context=1)
chosen = np.random.default_rng(0).permutation(test.starts[-1])[:500]
x_test, y_test = tf.constant(test.inputs(chosen)), test.clean[chosen]
SEEDS = range(devices.at_scale(quick=3, full=10))


def squared(y, output):
    return tf.reduce_mean(tf.square(y - output), -1)


def order(shuffled, random):
    if shuffled:  # right
        return random.permutation(train.starts[-1])
    utterances = np.split(np.arange(train.starts[-1]), train.starts[1:-1])  # wrong
    return np.concatenate([utterances[turn] for turn in random.permutation(len(utterances))])


def validated(shuffled, seed):
    keras.utils.set_random_seed(seed)
    model = models.perceptron(
        lambda: bnref.BatchNorm(momentum=0.9), inputs=(3 * 257,), units=(256,), outputs=257
    )
    step = training.compiled_step(model, keras.optimizers.Adam(1e-3), squared)
    losses, frames = [], order(shuffled, np.random.default_rng(seed))
    for number, batch in enumerate(np.split(frames[: 32 * 300], 300), start=1):
        step(train.inputs(batch), train.clean[batch])
        if number > 200 and number % 5 == 0:
            losses.append(np.mean(squared(y_test, model(x_test, training=False))))
    return losses


live = {shuffled: np.array([validated(shuffled, s) for s in SEEDS]) for shuffled in (False, True)}

# %%
# What to do
# ----------
# Shuffle frames, not files: ``tf.data.Dataset.shuffle`` with a buffer of many files' frames, or draw
# each batch from many files. If the order cannot change, recompute the population on frames of many
# files before each test, which takes 20 batches. ``training=False`` while training is no batch
# norm: it normalizes by 0 and 1 for ever, and :doc:`γ and β do not make up for it
# </gallery/questions/plot_noisy_validation_and_the_answers_rules>`.
#
# Conclusion
# ----------

print(f"post: {np.median(POST[-15:]):.2f}, jumps of {jump(POST):.2f}; training=False:", end=" ")
print(f"{np.median(POST_OFF):.2f}, jumps of {jump(POST_OFF):.2f}")
for name, losses in found.items():
    print(f"{name:39} {np.median(losses):.2f}, jumps of {jump(losses):.3f}")
lazy, low, fresh, off, mixed = map(jump, found.values())
