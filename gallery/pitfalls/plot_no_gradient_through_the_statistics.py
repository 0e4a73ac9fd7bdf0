"""
Without the gradient through the statistics a bias grows, and nothing comes of it
=================================================================================

Some layers write the batch's moments into variables, and normalize by what they read from these.
Then no gradient passes through mean and variance. A bias before such a layer moves in every step,
while the output does not change. A small network that is trained so at a rate of 0.2 ends at a mean
test accuracy of :claim:`11 % <wrong>`; with the gradient it reaches :claim:`83 % <right>`. At a
rate of 0.1 no difference is clear: :claim:`90 % <wrong_at_0_1>` and :claim:`89 % <right_at_0_1>`.

.. symptom:: no better than without batch norm
   :doctor: bias_without_effect
   :check: ``np.abs(layer.bias).max()`` of the layer before the norm grows from epoch to epoch
"""

# %%
# Check
# -----
# The gradient of a bias before a norm is 0 up to rounding. The check finds a bias that has grown to
# more than 10 deviations of the norm's inputs: it drifts evenly, so long training shows it.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import doctor, tf1
from bnref_gallery import datasets, scale, tower_networks
from bnref_gallery.claims import claim

v1 = tf.compat.v1

# %%
# Fix
# ---
# Normalize by the moments themselves, and assign them to variables only to remember them.
#
# Wrong
# ^^^^^


def normalized_by_variables(x, mean, variance):
    batch_mean, batch_variance = tf.nn.moments(x, [0])
    assigned = [mean.assign(batch_mean), variance.assign(batch_variance)]
    with tf.control_dependencies(assigned):
        return (x - tf.identity(mean)) / tf.sqrt(tf.identity(variance) + 1e-5)


# %%
# Right
# ^^^^^


def normalized_by_moments(x, mean, variance):
    batch_mean, batch_variance = tf.nn.moments(x, [0])
    assigned = [mean.assign(batch_mean), variance.assign(batch_variance)]
    with tf.control_dependencies(assigned):
        return (x - tf.identity(batch_mean)) / tf.sqrt(tf.identity(batch_variance) + 1e-5)


# %%
# Why
# ---
# It goes wrong at question 3 (used when): forwards the batch's statistics are used, but backwards
# they are taken for constants, which only the population's are. For y = γx̂ + β, x̂ = (x − μ)/s and
# s = √(σ² + ε), the gradient has three terms:
#
# .. math:: \frac{\partial L}{\partial x_i} = \frac\gamma s \Big(\frac{\partial L}{\partial y_i}
#    - \frac1N \sum_j \frac{\partial L}{\partial y_j}
#    - \frac{\hat x_i}{N} \sum_j \frac{\partial L}{\partial y_j}\,\hat x_j\Big)
#
# The second comes through the mean, the third through the variance; the wrong way has only the
# first. Let x = w·u + b. The gradient of b is the sum over i: 0 with all terms, but γ/s ∂L/∂β with
# the first alone (Ioffe & Szegedy 2015, arXiv 1502.03167, section 2, whose layer has no β to stop
# it). Nor can the length of w matter: at b = 0, w · ∂L/∂w is 0 but for ε with all terms, and with
# the first alone γ ∂L/∂γ + μ γ/s ∂L/∂β.
#
# Met in method 1 of the post "two towers" (:doc:`/gallery/questions/plot_two_towers`). Its methods
# 2 to 4 normalize by the moments.
#
# Experiment
# ----------
# An example with the two functions of the fix: only b is trained, and the loss wants a mean output
# of 1.

placement = tf1.shared_memory(1)
u = np.random.default_rng(0).normal(1, 2, (256, 3)).astype("float32")
w0 = np.array([[1], [2], [-1]], "float32")


def layer(normalized, x):
    """The normalization with β and γ."""
    mean = v1.Variable([0.0], trainable=False)
    variance = v1.Variable([1.0], trainable=False)
    beta, gamma = v1.Variable([0.0]), v1.Variable([1.0])
    return gamma * normalized(x, mean, variance) + beta


def example(normalized):
    """Return the gradients of b, w, β, γ at the start, then b and the loss over the steps."""
    with tf1.tensorflow_1(), tf1.session(placement) as session:
        b, w = v1.Variable(0.0), v1.Variable(w0)
        loss = tf.reduce_mean(tf.square(layer(normalized, u @ w + b) - 1)) / 2
        gradients = v1.gradients(loss, v1.trainable_variables())
        step = v1.train.GradientDescentOptimizer(0.1).minimize(loss, var_list=[b])
        session.run(v1.global_variables_initializer())
        start = [np.ravel(each) for each in session.run(gradients)]
        return start, *np.transpose([session.run([step, b, loss])[1:] for _ in range(200)])


examples = [example(normalized_by_variables), example(normalized_by_moments)]

# %%
# Two convolutions, each with a bias, in 120 steps of gradient descent on one tower. The layer is
# method 1 of the post, as it was posted and with the moments themselves. The graph is built once.
# Rate and steps were chosen where the difference is large, and seeds differ widely: the means of
# ten at a rate of 0.2 were 17 % and 59 %. At 0.3, after 180 steps, some had recovered without it.

NORMS = tf1.stored_moments_norm, partial(tf1.stored_moments_norm, repaired=True)
RATES = 0.1, 0.2
data = datasets.load("mnist").take(train=4000, test=1000)


def trained(classifier, session, seed):
    """Return the test accuracy; then the length of the first layer's bias every 10 steps."""
    bias = next(v for v in v1.trainable_variables() if v.op.name == "conv_0/bias")
    lengths = []
    for step, i in enumerate(np.random.default_rng(seed).choice(4000, (120, 48))):
        classifier.train(session, data.x_train[i], data.y_train[i])
        if step % 10 == 9:
            lengths.append(np.linalg.norm(session.run(bias)))
    return [classifier.accuracy(session, data.x_test, data.y_test), *lengths]


# %%


def trained_by_rates_and_seeds(norm):
    network = partial(tower_networks.convolutions, norm=norm, filters=(8, 16), units=32)
    runs = []
    with tf1.tensorflow_1(seed=0), tf1.session(placement) as session:
        given = v1.placeholder(tf.float32, ())
        rate = v1.Variable(given, trainable=False)
        options = {"placement": placement, "optimizer": v1.train.GradientDescentOptimizer(rate)}
        classifier = tower_networks.Classifier(network, image_shape=(28, 28, 1), **options)
        initialize = v1.global_variables_initializer()  # new weights, each time that it runs
        for each in RATES:
            for seed in range(scale.at_scale(quick=3, full=10)):
                session.run(initialize, {given: each})
                runs.append(trained(classifier, session, seed))
    return np.reshape(runs, (len(RATES), -1, 13))


runs = np.array([trained_by_rates_and_seeds(norm) for norm in NORMS])
accuracy = runs[..., 0]
lengths = runs[..., 1:]

# %%

fig, axes = plt.subplot_mosaic("ab;cc", figsize=(6.2, 5), layout="constrained")
axes["a"].set(title="Example: b", xlabel="step")
axes["b"].set(title="Network at rate 0.1: |bias|", xlabel="step")
axes["c"].set(title="Network, by seed", xlabel="test accuracy", xlim=(0, 1), ylim=(-1, 2))
arms = (("no gradient", "C1", "X"), ("with gradient", "C0", "o"))
for k, (label, colour, style) in enumerate(arms):
    axes["a"].plot(examples[k][1], colour, label=label)
    axes["b"].plot(range(10, 121, 10), lengths[k, 0].T, colour, lw=1)
    axes["c"].plot(accuracy[k], ["rate 0.1", "rate 0.2"], colour + style, ms=8)
fig.legend(loc="outside lower center", ncols=2)
axes["a"].set_ylabel("b")
axes["b"].set_ylabel("|bias|")
axes["c"].set_ylabel("learning rate")
plt.show()

# %%
# Proof
# -----
# The example against the formulas.

(b, w, beta, gamma), drift, loss = examples[0]
mean, s = (u @ w0).mean(), np.sqrt((u @ w0).var() + 1e-5)
print(f"b after 200 steps {drift[-1]:.4f}, predicted {-20 * beta[0] / s:.4f}; loss", loss[[0, -1]])
assert abs(b[0]) > 0.1, "by variables a bias has a gradient"
assert np.isclose(b[0], beta[0] / s, rtol=1e-3), "it is that of the first term alone"
assert np.isclose(drift[-1] / 20, -beta[0] / s, rtol=1e-3), "b moves by rate · γ/s · ∂L/∂β a step"
assert np.ptp(loss) < 1e-4, "and the output does not change"
assert np.allclose(w @ w0, gamma + beta * mean / s, rtol=1e-3), "so does the length of w"
(b, w, *_), still, _ = examples[1]
assert abs(b[0]) < 1e-5, "by the moments a bias has no gradient"
assert abs(still[-1]) < 1e-4, "with all terms b stands still"
assert abs(w @ w0) < 1e-5, "and the length of w too"

# %%
# The network.

print("accuracy at rates 0.1 and 0.2, no gradient and gradient:", *accuracy.round(3).tolist())
claim("wrong", accuracy[0, 1], "test accuracy at rate 0.2, no gradient", below=0.6, of="mean")
claim("right", accuracy[1, 1], "test accuracy at rate 0.2, with gradient", above=0.35, of="mean")
claim("wrong_at_0_1", accuracy[0, 0], "test accuracy at rate 0.1, no gradient", above=0.35)
claim("right_at_0_1", accuracy[1, 0], "test accuracy at rate 0.1, with gradient", above=0.35)
lost = accuracy[1] - accuracy[0]
claim("lost_at_0_1", lost[0], "lost at rate 0.1", above=-0.15, below=0.15, of="mean")
claim("lost_at_0_2", lost[1], "lost at rate 0.2", above=0.3, of="mean")
claim("bias", lengths[0, 0, :, -1], "|bias| after 120 steps at 0.1, no gradient", above=0.3)
claim("bias_right", lengths[1].max(), "largest |bias| with gradient, either rate", below=1e-3)

# %%
# The doctor: a bias that drifts evenly for 15 times as long, and one that stands still.


def found(bias):
    dense = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((3,)), dense, keras.layers.BatchNormalization()])
    dense.set_weights([w0, np.array([bias])])
    report = doctor.examine(model, u, only=["bias_without_effect"])
    return [finding.evidence for finding in report.findings]


evidence = found(15 * drift[-1])
print("the doctor, of the wrong bias:", *evidence)
assert evidence, "the check fires where no gradient has passed"
assert not found(15 * still[-1]), "and is silent with the gradient"
