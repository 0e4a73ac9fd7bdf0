"""
``training=False`` does not freeze a base in Keras 3; ``trainable=False`` does
==============================================================================

A base called as ``base(x, training=False)`` and then unfrozen trains in Keras 3.15 as if nothing
had been said: its statistics move in ``fit`` and in a loop. In tf_keras the same code moves them by
**0**. Fine-tuned on 200 new digits in batches of 2, it ends **more than 15 points** of accuracy
behind, on average, one whose normalizations are ``trainable = False``; these never move.

The symptom: statistics move that were to stay, and fine-tuning in small batches ruins a good model.
Question 3, *used when*, is answered wrongly, against what was written: a functional model of Keras
3 passes the ``training`` it is called with to all its layers, over what was recorded when they were
put together, and ``fit`` calls it with True. What the code of a ``call`` method says, holds.

.. symptom:: statistics change when they should not
   :doctor: training_false_overridden
   :cause: Keras 3 overrides the ``training=False`` of a functional model, and the base was unfrozen
   :check: ``sum(norm.trainable for norm in bnref.norms.find(base))`` is above 0

.. symptom:: statistics change when they should not
   :doctor: frozen_after_compile
   :cause: layers were frozen after ``compile``, and ``fit`` keeps the step that it traced before
   :check: call ``model.compile`` again: does ``layer.moving_mean`` stand still now?

.. symptom:: fine-tuned model collapses
   :doctor: training_false_overridden
   :cause: the whole base was unfrozen, its batch norm with it, and the batches are small
   :check: ``sum(norm.trainable for norm in bnref.norms.find(base))`` is above 0
"""

import itertools

import keras
import matplotlib.pyplot as plt
import numpy as np
import tf_keras

from bnref import doctor, training
from bnref_gallery import datasets, defects, scale

LIBRARIES = {"Keras 3": keras, "tf_keras": tf_keras}

# %%
# The base of a network that has learned the digits 0 to 4 gets a new last layer, and is tuned on
# 200 of 5 to 9. It is called in one of three ways, and unfrozen wholly or but for its norms.

mnist = datasets.load("mnist").take(train=3500, test=800)
is_old, tested = mnist.y_train < 5, mnist.y_test > 4
old = mnist.x_train[is_old][:1500], mnist.y_train[is_old][:1500]
new = mnist.x_train[~is_old][:200], mnist.y_train[~is_old][:200]


def in_code(library, base):
    class Inference(library.layers.Layer):
        def call(self, x):
            return self.base(x, training=False)  # right: read whenever the model is called

    layer = Inference()
    layer.base = base
    return layer


CALLS = {
    "base(x)": lambda _, base: base,
    "base(x, training=False)": lambda _, base: lambda x: base(x, training=False),  # wrong: recorded
    "the same in a call method": in_code,
}


def network(library, call):
    base = library.Sequential([library.Input((28, 28, 1)), library.layers.Flatten()])
    norms = [library.layers.BatchNormalization() for _ in range(2)]
    for norm in norms:
        for layer in (library.layers.Dense(64), norm, library.layers.ReLU()):
            base.add(layer)
    x = library.Input((28, 28, 1))
    return library.Model(x, library.layers.Dense(10)(CALLS[call](library, base)(x))), base, norms


def tuned(name, call, trainable, how="fit", *, data, size, start=None, epochs=1, seed=0):
    """The weights of the base, and the test accuracy."""
    LIBRARIES[name].utils.set_random_seed(seed)
    model, base, norms = network(LIBRARIES[name], call)
    base.set_weights(start or base.get_weights())
    base.trainable = True
    for norm in norms:  # right, if trainable is False: after the base, before compile
        norm.trainable = trainable
    if how == "fit":
        loss = LIBRARIES[name].losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(LIBRARIES[name].optimizers.SGD(0.02), loss, jit_compile=False)
        model.fit(*data, batch_size=size, epochs=epochs, verbose=0)
    else:
        for x in np.split(data[0], len(data[0]) // size):
            model(x, training=True)
    chosen = np.argmax(model(mnist.x_test[tested], training=False), -1)
    return base.get_weights(), np.mean(chosen == mnist.y_test[tested])


seeds, learning = range(scale.at_scale(quick=3, full=10)), {"size": 16, "epochs": 3}
starts = [tuned("Keras 3", "base(x)", True, data=old, seed=i, **learning)[0] for i in seeds]
table, columns = {}, list(itertools.product((True, False), ("fit", "loop")))
print("the moving mean moved by; columns: (trainable, how)", *columns)
for case in itertools.product(LIBRARIES, CALLS):
    after = [tuned(*case, *each, data=new, size=50, start=starts[0])[0][4] for each in columns]
    table[case] = [np.abs(mean - starts[0][4]).max() for mean in after]
    print("{:9} {:26}".format(*case), *(f"{moved:.3f}" for moved in table[case]))

# %%
# What it costs in batches of 2. The fix, to be repeated before every ``compile``, is the loop over
# ``norms`` above; ``bnref.norms.find(base)`` has them for models inside the base too. It holds γ
# and β as well; :class:`bnref.layers.FrozenBatchNorm` lets them learn. To check your own model,
# count the norms that are trainable: there must be none. What was recorded in vain is found by
# ``bnref.doctor.examine(model, data, only=["training_false_overridden"])``.

recorded = list(CALLS)[1]
arms = [("Keras 3", "base(x)", False), *((*case, True) for case in table if case[1] == recorded)]
runs = np.array([[tuned(*arm, start=w, data=new, size=2)[1] for w in starts] for arm in arms])
fig, ax = plt.subplots(figsize=(6.2, 2.8), layout="constrained")
for arm, values, style in zip(arms, runs, ("C0o", "C1X", "C2o"), strict=False):
    ax.plot(values, ["{}, {}\ntrainable={}".format(*arm)] * len(starts), style)
ax.set(title="Test accuracy after fine-tuning", xlim=(0, 1), ylim=(len(arms) - 0.5, -0.5))
plt.show()

# %%
# Frozen after ``compile``
# ------------------------
#
# ``fit`` keeps the graph that it traced first. A layer that is frozen afterwards learns and
# remembers on, without a word, until ``compile`` is called again. The step of
# :class:`bnref.training.Run` looks at ``trainable`` in every step, and is traced anew. To check:
# ``bnref.doctor.examine(model, data, only=["frozen_after_compile"])``.


def moved_by(step, norm):
    """How far the moving mean goes in one step."""
    before = norm.moving_mean.numpy()
    step(new[0][:50], new[1][:50])
    return float(np.abs(norm.moving_mean - before).max())


def frozen_after_the_first_step(how):
    model, _, norms = network(keras, "base(x)")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step = model.train_on_batch
    if how == "bnref.training.Run":
        step = training.Run(model, keras.optimizers.SGD(0.01)).step
    step(new[0][:50], new[1][:50])
    norms[0].trainable = False
    if how == "compile again":
        model.compile("sgd", model.loss)  # right
    return moved_by(step, norms[0]), model


ways = ("compiled once", "compile again", "bnref.training.Run")
frozen = {how: frozen_after_the_first_step(how) for how in ways}
after_freezing = {how: moved for how, (moved, _) in frozen.items()}
print("moved after it was frozen:", after_freezing)

# %%
# Met in `keras-team/keras#20285 <https://github.com/keras-team/keras/issues/20285>`_. `A change
# <https://github.com/keras-team/keras/pull/23364>`_ of July 2026 mends it, but not yet in 3.15.1.
#
# Conclusion
# ----------

shows = table["Keras 3", recorded][0] > 0
defects.defect("training_overridden", shows)
for (name, call), row in table.items():
    moves = call == "base(x)" or (call == recorded and name == "Keras 3" and shows)
    assert [moved == 0 for moved in row] == [not moves, not moves, True, True]
print("test accuracy, in the order of the figure:", *runs.round(3).tolist())
assert not shows or ((runs[1] < runs[0]).all() and (runs[0] - runs[1]).mean() > 0.15)
assert after_freezing["compiled once"] > 1e-3, "the graph traced first goes on"
assert after_freezing["compile again"] == 0, "compile makes a new one"
assert after_freezing["bnref.training.Run"] == 0, "the step of bnref notices"


def found(model, cause):
    report = doctor.examine(model, new, only=[cause])
    return [finding.evidence for finding in report.findings]


model, _, norms = network(keras, recorded)
overridden = found(model, "training_false_overridden")
for norm in norms:
    norm.trainable = False
late, again = (found(frozen[how][1], "frozen_after_compile") for how in ways[:2])
print("the doctor, of the wrong models:", *overridden, *late)
assert bool(overridden) == shows and not found(model, "training_false_overridden")
assert late and not again
