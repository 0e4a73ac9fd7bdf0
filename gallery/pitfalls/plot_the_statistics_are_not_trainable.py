"""
What saves or copies the trainable variables leaves the statistics behind
=========================================================================

Moving mean and variance are variables, but not trainable: ``summary()`` counts them as
"Non-trainable params". A network of six norms has a test accuracy of :claim:`89 % <trained>`. A new
one with a copy of its ``trainable_variables`` has :claim:`50 % <wrong_copy>`: it predicts by mean 0
and variance 1, and no error is raised. With a copy of all it has :claim:`89 % <right_copy>`.

.. symptom:: the saved model predicts differently
   :doctor: never_updated
   :cause: only the trainable variables were saved or copied; the statistics are not among them
   :check: after loading, ``[norm.path for norm in bnref.norms.find(model) if not
           np.any(norm.mean)]`` is not empty

.. symptom:: the saved model predicts differently
   :doctor: saved_model_differs
   :check: ``np.array_equal(model.predict(x), keras.models.load_model("model.keras").predict(x))``

.. symptom:: an error message
   :cause: "uninitialized value" of a moving mean: TensorFlow 1 saved the trainable variables only
   :check: ``tf.train.list_variables(checkpoint)`` does not name it
   :likelihood: often
   :question: 2

.. symptom:: an error message
   :cause: "Shape mismatch" from ``load_weights``: an ``.h5`` file of tf_keras has what is trainable
           first, and other layers were frozen when it was written
   :check: freeze the same layers as then, load, and unfreeze: does it load?
   :likelihood: sometimes
   :question: none

.. symptom:: an error message
   :cause: "Unknown layer: BatchNormalizationV1" (or V2): ``tf.keras`` of TensorFlow 1.13, and of
           versions near it, wrote that name into its ``.h5`` files
   :check: ``keras.models.load_model(path, custom_objects={"BatchNormalizationV1":
           keras.layers.BatchNormalization})`` loads it
   :likelihood: sometimes
   :question: none
"""

# %%
# Check
# -----
# Ask the first check of the copy. The second saves and loads the model itself, and finds what a
# layer of your own keeps for itself, such as an ε that its ``get_config`` does not say.

import tempfile
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, population, tf1, training
from bnref_gallery import datasets, models, scale, tower_networks
from bnref_gallery.claims import claim

v1 = tf.compat.v1

# %%
# Fix
# ---
# Copy all variables, or ``model.save``. A wrong copy is mended by
# :func:`bnref.population.recompute` on training images.
#
# Wrong
# ^^^^^


def copied_by_trainable_variables(source, target):
    pairs = zip(source.trainable_variables, target.trainable_variables, strict=True)
    for value, variable in pairs:
        variable.assign(value)


# %%
# Right
# ^^^^^


def copied_by_all_weights(source, target):
    target.set_weights(source.get_weights())


# %%
# Wrong, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def saver_of_trainable_variables():
    return v1.train.Saver(v1.trainable_variables())


# %%
# Right, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def saver_of_all_variables():
    return v1.train.Saver()


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    weights = dict(model.named_parameters())
#    other.load_state_dict(weights, strict=False)
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    other.load_state_dict(model.state_dict())
#
# Why
# ---
# It goes wrong at question 2 (remembered how): what training has remembered is not handed on. In
# TensorFlow 1, initializing before restoring leaves the start values in place; without it there is
# an error.
#
# Met in `tinghuiz/SfMLearner#17 <https://github.com/tinghuiz/SfMLearner/issues/17>`_ (the error),
# and in PyTorch: in `DLR-RM/stable-baselines3#996
# <https://github.com/DLR-RM/stable-baselines3/issues/996>`_ (target networks) and
# `SymbioticLab/FedScale#57 <https://github.com/SymbioticLab/FedScale/issues/57>`_ (federated).
#
# Experiment
# ----------
# A perceptron of six norms, trained, copied in both ways, and the wrong copy recomputed.

data = datasets.load("mnist").take(train=3000, test=1000)
seeds = range(scale.at_scale(quick=3, full=10))
norm = partial(bnref.BatchNorm, momentum=0.9)
network = partial(models.perceptron, norm, inputs=(28, 28, 1), units=(64,) * 6)
trained, wrong, right = network(), network(), network()
predict = {model: tf.function(partial(model, training=False)) for model in (trained, wrong, right)}


def accuracy(model):
    return np.mean(np.argmax(predict[model](data.x_test), -1) == data.y_test)


def accuracies_of_copies(seed):
    """Of the network, its wrong copy, its right copy, the wrong one with new statistics."""
    keras.utils.set_random_seed(seed)
    for model in (trained, wrong, right):
        model.set_weights(network().get_weights())
    training.train(trained, data.x_train, data.y_train, steps=150, batch_size=64, seed=seed)
    copied_by_trainable_variables(trained, wrong)
    copied_by_all_weights(trained, right)
    found = [accuracy(model) for model in (trained, wrong, right)]
    population.recompute(wrong, np.split(data.x_train, 10))
    return [*found, accuracy(wrong)]


today = np.array([accuracies_of_copies(seed) for seed in seeds])

# %%
# The same in a graph of TensorFlow 1, saved to a file and restored in another session.


def in_graph(x, training):
    x = tf.reshape(x, (-1, 784))
    for k in range(6):
        with v1.variable_scope(f"layer_{k}"):
            x = tf.matmul(x, v1.get_variable("kernel", (x.shape[1], 64)))
            x = tf.nn.relu(tf1.assigned_average_norm(x, training, repaired=True))
    return tf.matmul(x, v1.get_variable("logits", (64, 10)))


def accuracy_restored(classifier, saver, path, new):
    """Test accuracy in a new session, and whether it had to be initialized first."""
    saver.restore(new, path)
    try:
        return classifier.accuracy(new, data.x_test, data.y_test), False
    except tf.errors.FailedPreconditionError:
        new.run(v1.global_variables_initializer())
        saver.restore(new, path)
        return classifier.accuracy(new, data.x_test, data.y_test), True


def restored(seed):
    """Accuracies of a network and of two restored from files; for each file, was there an error?"""
    placement, adam = tf1.shared_memory(1), v1.train.AdamOptimizer(1e-3)
    with tf1.tensorflow_1(seed=seed), tf1.session(placement) as session:
        options = {"placement": placement, "optimizer": adam, "image_shape": (28, 28, 1)}
        classifier = tower_networks.Classifier(in_graph, **options)
        savers = saver_of_trainable_variables(), saver_of_all_variables()
        session.run(v1.global_variables_initializer())
        for i in np.random.default_rng(seed).choice(3000, (150, 64)):
            classifier.train(session, data.x_train[i], data.y_train[i])
        accuracies = [classifier.accuracy(session, data.x_test, data.y_test)]
        errors = []
        with tempfile.TemporaryDirectory() as folder, tf1.session(placement) as new:
            for saver in savers:
                path = saver.save(session, f"{folder}/model")
                score, had_error = accuracy_restored(classifier, saver, path, new)
                accuracies.append(score)
                errors.append(had_error)
        return accuracies, errors


restorations = [restored(seed) for seed in seeds]
once = np.array([accuracies for accuracies, _ in restorations])
errors = np.array([of_files for _, of_files in restorations])

# %%

ROWS = ["trained", "trainable only", "all", "trainable only,\nrecomputed"]
fig, axes = plt.subplots(1, 2, figsize=(6.2, 3), layout="constrained", sharey=True)
for ax, title, runs in zip(axes, ("Keras", "TensorFlow 1"), (today, once), strict=True):
    for values, row, style in zip(runs.T, ROWS, ("C4o", "C1X", "C0o", "C2D"), strict=False):
        ax.plot(values, [row] * len(seeds), style)
    ax.set(title=title, xlabel="test accuracy", xlim=(0, 1), ylim=(3.5, -0.5))
axes[0].set_ylabel("what is copied or saved")
plt.show()

# %%
# Proof
# -----
# What each copy loses, and the doctor on the wrong and the right copy of the last seed.

print("Keras, trained, trainable only, all, recomputed:", *today.round(3).tolist())
print("TensorFlow 1, trained, trainable only, all:", *once.round(3).tolist())
print("was there an error, trainable only and all:", *errors.tolist())
for name, each in (("Keras", today), ("TensorFlow 1", once)):
    assert (each[:, 0] - each[:, 1]).mean() > 0.2, f"{name}: trainable variables alone lose"
    assert np.abs(each[:, 2] - each[:, 0]).max() < 0.005, f"{name}: all variables lose nothing"
claim("trained", today[:, 0], "test accuracy, trained", above=0.8)
claim("wrong_copy", today[:, 1], "of a copy of the trainable variables", above=0.1, below=0.8)
claim("right_copy", today[:, 2], "of a copy of all variables", above=0.8)
claim("recomputed", today[:, 3] - today[:, 0], "recomputed, gained", above=-0.04, below=0.04)
assert errors[:, 0].all(), "trainable variables alone: an error, unless all are initialized"


def found(model, cause):
    report = doctor.examine(model, (data.x_test[:128], data.y_test[:128]), only=[cause])
    return [finding.evidence for finding in report.findings]


fresh = network()
copied_by_trainable_variables(trained, fresh)
print("the doctor, of the wrong copy:", *found(fresh, "never_updated"))
assert found(fresh, "never_updated"), "the check fires on the wrong copy"
assert not found(right, "never_updated"), "and is silent on the right one"

# %%
# And of a layer that has an ε of its own, which its ``get_config`` says or does not.


@keras.saving.register_keras_serializable("wrong")
class Forgetful(keras.layers.BatchNormalization):
    def __init__(self, own_epsilon=1e-3, told=False, **options):
        super().__init__(**{**options, "epsilon": own_epsilon})
        self.told = told

    def get_config(self):
        told = {"own_epsilon": self.epsilon, "told": True} if self.told else {}
        return {**super().get_config(), **told}


for told in (False, True):
    model = models.perceptron(partial(Forgetful, 0.1, told), inputs=(28, 28, 1), units=(64,))
    population.recompute(model, [data.x_train[:512]])
    evidence = found(model, "saved_model_differs")
    print(f"the doctor, of a layer whose ε is in its config: {told};", *(evidence or ["nothing"]))
    assert bool(evidence) == (not told), "fires where ε is not saved, is silent where it is"
