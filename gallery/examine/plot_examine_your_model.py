"""
Examine your model: one call names the cause, the evidence and the cure
=======================================================================

``bnref.doctor.examine(model, data)`` passes some batches through any Keras model and says what is
wrong with its batch norm. Here a convolutional network of Keras's own layers is wrong in three
ways at once, and its test accuracy is :claim:`11 % <as_it_was>`; the report names all three faults,
and nothing else. Mended as it says, the same network has :claim:`94 % <mended>`, and the report is
empty. The model comes back as it was, to the bit.
"""

# %%
# Check
# -----
# Give it the training data as training sees them, **in that order**: arrays, a ``tf.data.Dataset``
# or any batches that ``fit`` takes. A functional model, a subclass, one of ``keras.applications``,
# one that is loaded: ``python -m bnref.doctor model.keras data.npz`` does the same from a shell.

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import bnref
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%

data = datasets.load("mnist").take(train=2560, test=1000)
x, y = data.x_train, data.y_train
by_class = np.argsort(y, kind="stable")


def network(momentum, dropout_first):
    """Three norms; dropout before or behind the last of them."""
    inputs = keras.Input(x.shape[1:])
    h = layers.Conv2D(16, 3, strides=2, use_bias=False)(inputs)
    h = layers.ReLU()(layers.BatchNormalization(momentum=momentum, name="first")(h))
    h = layers.Conv2D(32, 3, strides=2, use_bias=False)(h)
    h = layers.ReLU()(layers.BatchNormalization(momentum=momentum, name="second")(h))
    h = layers.Dense(64)(layers.Flatten()(h))
    if dropout_first:
        h = layers.Dropout(0.5)(h)
    h = layers.ReLU()(layers.BatchNormalization(momentum=momentum, name="third")(h))
    if not dropout_first:
        h = layers.Dropout(0.5)(h)
    model = keras.Model(inputs, layers.Dense(10)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def trained(model, x, y):
    model.fit(x, y, epochs=3, batch_size=32, shuffle=False, verbose=0)
    return model


def wrong_network():
    return network(momentum=0.1, dropout_first=True)


# %%

keras.utils.set_random_seed(0)
wrong = trained(wrong_network(), x[by_class], y[by_class])
report = bnref.doctor.examine(wrong, (x[by_class], y[by_class]))
print(report)

# %%
# Fix
# ---
# Each finding ends with code for Keras. The batches are shuffled; the momentum of 0.1, which
# PyTorch writes where Keras has 0.9, is 0.9; and dropout stands behind the norm.
#
# Wrong
# ^^^^^

layers_wrong = [layers.Dropout(0.5), layers.BatchNormalization(momentum=0.1)]
data_in_order = x[by_class], y[by_class]

# %%
# Right
# ^^^^^

layers_right = [layers.BatchNormalization(momentum=0.9), layers.Dropout(0.5)]
data_shuffled = x, y

# %%
# Why
# ---
# Two of the three are wrong answers to *remembered how?*, one to *whose statistics?*: sorted by
# class, a batch has the statistics of one class; a momentum of 0.1 forgets all but the last batch;
# and dropout makes the remembered variance larger than that at inference. Each alone has a page,
# which the report names: :doc:`/gallery/questions/plot_noisy_validation`,
# :doc:`/gallery/questions/plot_alpha_and_momentum`,
# :doc:`/gallery/pitfalls/plot_dropout_before_batch_norm`.
#
# No threshold is a number out of the air. That batches are alike is judged against 99 random
# regroupings of the same examples; that a population is off, in standard errors of the batches'
# means; that it matters, by the loss at inference with it and with the statistics of these very
# batches, which neither overfitting nor dropout can change.
#
# Experiment
# ----------
# The same network, mended as the report says, and examined again.


def mended_network():
    return network(momentum=0.9, dropout_first=False)


keras.utils.set_random_seed(0)
mended = trained(mended_network(), x, y)
after = bnref.doctor.examine(mended, (x, y), (data.x_test, data.y_test))
print(after)

# %%
# To look at one layer yourself: :func:`bnref.norms.find` has every norm with its population, γ, β,
# ε, momentum and answers to the three questions; and :func:`bnref.norms.inputs` what each of them
# is given by a batch, in subclassed and nested models too. (For a functional model,
# ``keras.Model(model.input, [layer.input for layer in norms])`` does the same.)

for path, calls in bnref.norms.inputs(mended, x[:32]).items():
    print(f"{path:7} is called {len(calls)} time, with an array of shape {calls[0].shape}")

# %%
# The accuracy on test images with several seeds, before and after. In between, new statistics
# alone for the model that was trained wrongly: they do not save it, for its weights have learnt to
# expect batches of one class.


def accuracy_of(model):
    return model.evaluate(data.x_test, data.y_test, verbose=0)[1]


first, second = wrong_network(), mended_network()  # compiled once for all seeds
accuracy = {"as it was": [], "recomputed only": [], "mended": []}
for seed in range(scale.at_scale(quick=3, full=10)):
    restart(first, first.optimizer, wrong_network, seed=seed)
    trained(first, x[by_class], y[by_class])
    accuracy["as it was"].append(accuracy_of(first))
    bnref.population.recompute(first, np.split(x, 20), dropout=False)
    accuracy["recomputed only"].append(accuracy_of(first))
    restart(second, second.optimizer, mended_network, seed=seed)
    accuracy["mended"].append(accuracy_of(trained(second, x, y)))

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
for place, values in enumerate(accuracy.values()):
    left.plot([place] * len(values), values, "o", alpha=0.7)
left.set(title="Accuracy", xticks=range(3), ylim=(0, 1), ylabel="test accuracy")
left.set_xticklabels([name.replace(" ", "\n", 1) for name in accuracy])
paths = [row.path for row in report.norms]
right.plot(paths, [row.shift for row in report.norms], "X-", label="as it was")
right.plot(paths, [row.shift for row in after.norms], "o-", label="mended")
right.set(title="What is remembered", ylabel="population's mean,\ndeviations off", ylim=(0, None))
right.legend()
plt.show()

# %%
# Proof
# -----
# What the reports name, and the accuracies.

causes = {finding.cause for finding in report.findings}
planted = {"batches_not_shuffled", "dropout_before", "momentum_of_another_framework"}
assert causes == planted, f"the report names {causes}"
assert report.findings[0].cause == "batches_not_shuffled", "what harms most comes first"
assert not after.findings, f"the mended model has {after.findings}"
claim("as_it_was", accuracy["as it was"], "test accuracy, as it was", below=0.6)
claim("recomputed", accuracy["recomputed only"], "with new statistics alone", below=0.6)
claim("mended", accuracy["mended"], "test accuracy, mended", above=0.9)
wrong_order = [type(each).__name__ for each in layers_wrong]
assert wrong_order == ["Dropout", "BatchNormalization"], "dropout before the norm, in the wrong one"
assert layers_right[0].momentum == 0.9, "and the momentum that Keras means, in the right one"
