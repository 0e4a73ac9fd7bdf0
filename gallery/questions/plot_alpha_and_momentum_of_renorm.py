"""
What are renorm and renorm_momentum?
====================================

``renorm=True`` turns batch norm into batch *re*norm, another algorithm. It corrects a batch's
output, x̂·r + d, towards what averages of earlier batches would have given; ``renorm_momentum`` is
the momentum of those averages. Without ``renorm=True`` it **does nothing at all**: outputs and
averages are equal to the last bit. To port a network, leave both alone.

The second thing that the post of :doc:`alpha and momentum
</gallery/questions/plot_alpha_and_momentum>` asks; the answer it got says so too, and is right.
``momentum`` answers question 2, *remembered how*. ``renorm`` answers question 3, *used when*,
another way: in training the batch's statistics, corrected by remembered ones.

.. symptom:: numbers differ from PyTorch
   :cause: renorm=True, which PyTorch's layers do not have
   :check: ``hasattr(layer, "renorm_mean")`` is True
   :likelihood: seldom
   :question: 3
"""

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from bnref import tf1

v1 = tf.compat.v1
warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")

# %%
# The real ``tf.layers.batch_normalization``, in training mode, on small batches whose mean jumps
# after 15 of them. Each call gives the output and moves the averages once.

random = np.random.default_rng(0)
MEANS = np.repeat([0.0, 3.0], 15)
BATCHES = [random.normal(mean, 2, (8, 1)).astype("f4") for mean in MEANS]


def trained(**options):
    """Outputs of every batch, shape (30, 8), and the layer's variables at the end, by name."""
    with tf1.tensorflow_1(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 1))
        y = batch_normalization(x, momentum=0.9, training=True, name="bn", **options)
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        session.run(v1.global_variables_initializer())
        # The updates apart from the output, so that r and d are those before them.
        outputs = [(session.run(y, {x: b}), session.run(updates, {x: b}))[0] for b in BATCHES]
        names = [variable.op.name.removeprefix("bn/") for variable in v1.global_variables()]
        return np.squeeze(outputs), dict(
            zip(names, session.run(v1.global_variables()), strict=True)
        )


plain, variables = trained()
ignored, same_variables = trained(renorm_momentum=0.5)  # without renorm=True
fast, more_variables = trained(renorm=True, renorm_momentum=0.5)
slow, _ = trained(renorm=True, renorm_momentum=0.99)
print("variables:          ", ", ".join(variables))
print("with renorm=True:   ", ", ".join(more_variables))

# %%
# Batch norm gives each batch the mean 0, so that a jump of all inputs is not seen. Renorm without
# limits on r and d gives (x − μ)/σ, where μ and σ are its averages: the jump is seen until they
# have followed. With ``renorm_momentum=0.5`` they soon have, with 0.99 not within this figure.

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for outputs, style, name in (
    (plain, "C0-", "renorm=False, whatever renorm_momentum"),
    (fast, "C1o-", "renorm=True, renorm_momentum=0.5"),
    (slow, "C2s-", "renorm=True, renorm_momentum=0.99"),
):
    ax.plot(range(1, 31), outputs.mean(1), style, ms=4, label=name)
ax.axvline(15.5, color="C4", lw=1, ls=":")
ax.set(title="Mean of the output; all inputs jump by 3", xlabel="batch")
fig.legend(loc="outside lower center", ncols=1)
plt.show()

# %%
# Keras 3 has the same: ``keras.layers.BatchNormalization(renorm=True, renorm_momentum=0.99)``. The
# paper (Ioffe 2017, arXiv 1702.03275) has one momentum for all; :class:`bnref.layers.BatchRenorm`
# keeps to that, and to its schedules for the limits of r and d. When renorm helps:
# :doc:`/gallery/variants/plot_batch_renorm_and_its_schedules`. To check your own layer, look for
# ``renorm_mean`` and ``moving_stddev`` among its variables.
#
# Conclusion
# ----------

assert np.array_equal(plain, ignored), "equal to the last bit"
assert all(np.array_equal(variables[name], same_variables[name]) for name in variables)
assert set(more_variables) - set(variables) == {"moving_stddev", "renorm_mean", "renorm_stddev"}
for renorm in (False, True):
    today = keras.layers.BatchNormalization(renorm=renorm)
    today.build((None, 1))
    assert hasattr(today, "renorm_mean") == renorm, "and so in Keras 3"
assert np.abs(plain.mean(1)).max() < 1e-4, "batch norm hides the jump"
for name, outputs in (("0.5", fast), ("0.99", slow)):
    jump, later = outputs[15:17].mean(), outputs[-5:].mean()
    print(f"renorm_momentum={name}: mean after the jump {jump:.2f}, ten batches later {later:.2f}")
assert fast[15:17].mean() > 0.6 and abs(fast[-5:].mean()) < 0.5, "soon followed"
assert slow[-5:].mean() > 1.2, "not yet followed"
