"""
Gradients of single examples: with batch norm there is no such thing
====================================================================

Private training (DP-SGD) clips the gradient of each example to a length of C, so that one person's
example moves their sum by 2C at most. With batch norm an example also moves the gradients of all
others. Where one of 32 digits is swapped for a white image, the sum moves by
:claim:`1.7 times <with_batch_norm>` the length that is allowed, and with layer norm by
:claim:`0.6 times <with_layer_norm>`. Libraries for private training refuse batch norm for that
reason, and with it the promise would be broken in silence.

.. symptom:: an error message
   :cause: private training, or another method with a gradient for each example, refuses batch norm
   :check: "BatchNorm cannot support training with differential privacy"
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# Does an example's loss depend on the others of its batch? Then there is no gradient of it alone.
# ``changed_by_company`` is 0 but for rounding where it does not.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim


def changed_by_company(model, x):
    """How far the first output moves, over its size, when the other examples are exchanged."""
    half = len(x) // 2
    with_some = np.asarray(model(x[:half], training=True))[0]
    others = np.concatenate([x[:1], x[half + 1 :]])
    with_others = np.asarray(model(others, training=True))[0]
    return np.abs(with_some - with_others).max() / np.abs(with_some).max()


# %%
# Fix
# ---
# Take group, layer or instance normalization, or freeze the norms of a pretrained model. In a model
# that exists: ``bnref.norms.convert(model, keras.layers.LayerNormalization)``.
#
# Wrong
# ^^^^^


def private_norm_wrong():
    return keras.layers.BatchNormalization()


# %%
# Right
# ^^^^^


def private_norm():
    return keras.layers.LayerNormalization()


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): they are those of all examples of the batch. Let
# ℓᵢ be the loss of example i and C the length to which its gradient is clipped. Private training
# adds noise to the sum S of the clipped gradients, in proportion to how far one example can move S:
#
# .. math:: S = \sum_i \nabla \ell_i \cdot \min\!\Big(1, \frac{C}{\|\nabla \ell_i\|}\Big), \qquad
#           \|S - S'\| \le 2 C
#
# if one example is swapped for another; where it is left out, as Abadi et al. 2016 compare (`arXiv
# 1607.00133 <https://arxiv.org/abs/1607.00133>`_), the bound is C. With batch norm every term is
# another one in S', so that the bound is 2NC, for N examples, and the noise would have to be N
# times as large. Influence functions and gradients by example, as for weighing examples, have the
# same trouble.
#
# Met in `meta-pytorch/opacus#319 <https://github.com/meta-pytorch/opacus/issues/319>`_.
#
# Experiment
# ----------
# A perceptron is taken as it starts, with five seeds. Eight of 32 digits are swapped for a white
# image, one at a time; the largest move counts.

data = datasets.load("mnist").take(train=64, test=1)
x, y = data.x_train[:32, ::2, ::2], data.y_train[:32]
CLIP, SEEDS = 1.0, range(scale.at_scale(quick=5, full=20))
SWAPPED = range(0, 32, 4)


def sum_of_clipped(model, x):
    """The sum of the examples' gradients, each clipped to a length of CLIP."""
    weights = [each.value for each in model.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        logits = model(x, training=True)
        losses = tf.unstack(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    total = [tf.zeros_like(each) for each in weights]
    for loss in losses:
        gradient, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), CLIP)
        total = [one + another for one, another in zip(total, gradient, strict=True)]
    return total


def moved(norm):
    """How far a swap moves the sum, over the 2C that are allowed: the farthest of eight swaps.

    A row a seed; and how far an output moves when the other examples are exchanged.
    """
    network = partial(models.perceptron, norm, inputs=(14, 14, 1), units=(32, 32))
    model, rows = network(), []
    compiled = tf.function(partial(sum_of_clipped, model))  # traced once for all seeds
    for seed in SEEDS:
        keras.utils.set_random_seed(seed)
        model.set_weights(network().get_weights())
        before, found = compiled(x), []
        for swapped in SWAPPED:
            other = x.copy()
            other[swapped] = 1
            pairs = zip(before, compiled(other), strict=True)
            away = tf.linalg.global_norm([one - another for one, another in pairs])
            found.append(float(away) / (2 * CLIP))
        rows.append((max(found), changed_by_company(model, data.x_train[:, ::2, ::2])))
    return np.array(rows)


results = {"batch norm": moved(private_norm_wrong), "layer norm": moved(private_norm)}

# %%

fig, ax = plt.subplots(figsize=(6.2, 2.6), layout="constrained")
for place, (rows, style) in enumerate(zip(results.values(), ("C1X", "C0o"), strict=True)):
    ax.plot(rows[:, 0], np.full(len(rows), place), style, ms=7)
ax.axvline(1, color="#555555", ls=":", label="allowed: 2C")
ax.set(title="One of 32 examples swapped", xlabel="the sum of clipped gradients moves by, over 2C")
ax.set(xlim=(0, None), yticks=range(2), yticklabels=results, ylim=(1.5, -0.5))
fig.legend(loc="outside lower center")
ax.set_ylabel("norm")
plt.show()

# %%
# Proof
# -----
# How far the sums move, and the check.

for name, rows in results.items():
    print(f"{name}: moved by {rows[:, 0].round(2)} of 2C; an output by {rows[:, 1].round(7)}")
wrong, right = results.values()
claim("with_batch_norm", wrong[:, 0], "a swap moves the sum, over 2C, batch norm", above=1.2)
claim("with_layer_norm", right[:, 0], "a swap moves the sum, over 2C, layer norm", below=1.0001)
assert wrong[:, 1].min() > 0.01, "the check fires: an output depends on the other examples"
assert right[:, 1].max() < 1e-5, "and is silent where none does"
