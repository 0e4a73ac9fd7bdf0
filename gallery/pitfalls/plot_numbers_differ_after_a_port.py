"""
The port from PyTorch predicts otherwise: epsilon, momentum, Bessel's correction
================================================================================

Three numbers of a batch norm mean something else in PyTorch. An epsilon of 1e-3 under weights that
were learnt with 1e-5 changes a logit by up to :claim:`9.9 <logits>` here, though not the accuracy.
A momentum of 0.1 that is copied as it stands changes nothing at first; in further training the test
loss is :claim:`10 times <momentum>` as high after 20 steps. Bessel's correction, which PyTorch
remembers and Keras 3 does not, is 14 % of the variance at 8 values per channel, and moves the loss
by :claim:`0.01 <bessel>` at most.

.. symptom:: numbers differ from PyTorch
   :doctor: epsilon_of_another_framework
   :cause: epsilon: 1e-3 in Keras, 1e-5 in PyTorch and Flax, 1e-4 in Lasagne
   :check: ``layer.epsilon != eps``, that of the other framework

.. symptom:: fine-tuned model collapses
   :doctor: momentum_of_another_framework
   :check: ``layer.momentum < 0.5``

.. symptom:: numbers differ from PyTorch
   :cause: a variance with Bessel's correction beside one without, in tiny batches
   :check: a training batch has fewer than 20 values a channel (batch · height · width)
   :likelihood: seldom
   :question: 2

.. symptom:: numbers differ from PyTorch
   :cause: rounding, not batch norm: sums in another order differ in the last digits
   :check: ``np.abs(ours - theirs).max() < 0.00001 * np.abs(theirs).max()``
   :likelihood: often
   :question: none

.. symptom:: predictions depend on the batch
   :cause: rounding: a batch of another size is multiplied in another order
   :check: ``np.abs(alone - in_batch).max() < 0.00001 * np.abs(in_batch).max()``
   :likelihood: sometimes
   :question: none
"""

# %%
# Check
# -----
# Feed one batch to both models and compare layer by layer, then the averages after a step. Without
# the source, one check finds the momentum, and the other an epsilon by which the loss suffers.

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import conventions, doctor, training
from bnref_gallery import datasets, records, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Say the other framework's numbers in Keras's units; :func:`bnref.conventions.port_model` does it
# for whole models and weights, by their names. The wrong code has each mistake by itself.
#
# Wrong
# ^^^^^


def norm_with_momentum_copied(momentum=0.1, eps=1e-5):
    return bnref.BatchNorm(momentum=momentum, epsilon=eps)


def norm_with_epsilon_left_out(momentum=0.1, eps=1e-5):
    return bnref.BatchNorm(momentum=1 - momentum)


# %%
# Right
# ^^^^^


def norm_as_meant_there(momentum=0.1, eps=1e-5):
    return bnref.BatchNorm(momentum=1 - momentum, epsilon=eps)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    bn = nn.BatchNorm1d(64, momentum=0.99)  # Keras's
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    bn = nn.BatchNorm1d(64, 1e-3, momentum=0.01)
#
# Why
# ---
# It goes wrong at question 2 (remembered how), in another unit: PyTorch's momentum is the weight of
# the new value, Keras's that of the old. Epsilon belongs to none of the three questions. Others
# made these mistakes: `momentum in transformers
# <https://github.com/huggingface/transformers/pull/19454>`__, `both in tacotron_pytorch
# <https://github.com/r9y9/tacotron_pytorch/issues/19>`__.
#
# Why does the wrong epsilon have the best curve in the figure? Many pixels are hardly ever lit:
# their variance is far below 1e-3. Divided by √(σ² + 1e-5) a lit one is 100 and more, and its batch
# moves the average by much. The larger epsilon damps that: another network, and not a worse one.
#
# Experiment
# ----------
# What layers remember of one batch, by their defaults. The last number is the variance remembered,
# over the variance without Bessel's correction.

provenance, sweep = records.read(records.path_of("conventions.csv"))
print(records.provenance_line(provenance))
for row in zip(*(sweep[column] for column in list(sweep)[:-1]), strict=True):
    line = "{:47} {:7} momentum {:4}, epsilon {:.0e}, new batch weighs {}, variance × {}"
    print(line.format(*row))

# %%
# A network that normalizes its pixels is trained as PyTorch would, and saved under PyTorch's names.
# Then it is ported: by the book, and with one mistake each.

data = datasets.load("mnist").take(train=3000, test=1000)
PORTS = {
    "by the book": (norm_as_meant_there, {}),
    "epsilon of Keras": (norm_with_epsilon_left_out, {}),
    "momentum copied": (norm_with_momentum_copied, {}),
    "Bessel undone, n = 8": (norm_as_meant_there, {"count": 8}),  # right only in batches of 8
}


def network(norm):
    layers = [keras.layers.Flatten(), norm(), keras.layers.Dense(64), norm()]
    layers += [keras.layers.ReLU(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def weights_of(layer):
    return {name: getattr(layer, name) for name in conventions.CONVENTIONS["keras"].names}


def port_weights(source, model, how):
    """Give the model the weights of the source, through PyTorch's names and back."""
    model.set_weights(source.get_weights())
    for layer, copy in zip(source.layers, model.layers, strict=True):
        if isinstance(copy, bnref.BatchNorm):
            there = conventions.port(weights_of(layer), source="keras", target="pytorch")
            back = conventions.port(there.weights, source="pytorch", target="keras", **how)
            for name, value in back.weights.items():
                getattr(copy, name).assign(value)


# %%
# The step of each port is compiled once, and its model gets other weights for each seed.

further = {
    name: training.Run(network(norm), keras.optimizers.SGD(0.001))
    for name, (norm, _) in PORTS.items()
}


def test_loss(run):
    return {"test": run.evaluate(data.x_test, data.y_test)[0]}


def losses_of_further_training(run, seed):
    """Test losses, every 2 steps."""
    options = {"steps": 20, "batch_size": 8, "every": 2, "measure": test_loss}
    return run.train(data.x_train, data.y_train, seed=seed, **options)["test"]


# %%


def outcome(seed):
    """For each port: accuracy, largest change of a logit, losses of further training."""
    keras.utils.set_random_seed(seed)
    source = network(norm_as_meant_there)
    found = []
    options = {"optimizer": keras.optimizers.Adam(0.003), "steps": 100, "batch_size": 128}
    training.train(source, data.x_train, data.y_train, seed=seed, **options)
    expected = source(data.x_test, training=False)
    for name, (_, how) in PORTS.items():
        model = further[name].model
        port_weights(source, model, how)
        logits = model(data.x_test, training=False)
        accuracy = np.mean(np.argmax(logits, -1) == data.y_test)
        change = np.abs(logits - expected).max()
        found.append((accuracy, change, *losses_of_further_training(further[name], seed)))
    return found


seeds = range(scale.at_scale(quick=3, full=10))
outcomes = np.array([outcome(seed) for seed in seeds])  # (seeds, ports, ...)

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for number, (name, colour) in enumerate(zip(PORTS, ("C0", "C1", "C3", "C2"), strict=True)):
    losses = outcomes[:, number, 2:]
    ax.plot(range(0, 21, 2), losses.T, colour, lw=0.8, alpha=0.5)
    ax.plot(range(0, 21, 2), losses.mean(0), colour, label=name)
ax.set(title="Test loss after the port, while training goes on", xlabel="step, batches of 8")
ax.set(ylabel="test loss", yscale="log", xticks=range(0, 21, 5), yticks=[0.3, 0.5, 1, 2, 5])
ax.set(yticklabels=[0.3, 0.5, 1, 2, 5])
ax.minorticks_off()
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# What each mistake changes, at once and in further training, and the doctor.

for name, each in zip(PORTS, outcomes.swapaxes(0, 1), strict=True):
    accuracy, change, before, after = each[:, [0, 1, 2, -1]].T
    print(f"{name:21} accuracy {accuracy.round(2)}, logits by up to {change.round(1)}, ", end="")
    print(f"loss {before.mean():.2f}, after 20 steps {after.mean():.2f}")
book, epsilon, momentum, bessel = outcomes.swapaxes(0, 1)
assert book[:, 1].max() < 1e-3, "by the book: the same logits"
assert momentum[:, 1].max() < 1e-3, "the momentum changes nothing at first"
claim("logits", epsilon[:, 1], "largest change of a logit by epsilon", above=4)
apart = epsilon[:, 0] - book[:, 0]
claim("accuracy", apart, "accuracy gained by the wrong epsilon", above=-0.03, below=0.03)
claim("momentum", momentum[:, -1] / book[:, -1], "loss over that by the book", above=5)
claim("bessel", np.abs(bessel[:, 2:] - book[:, 2:]).max(1), "loss moved by Bessel", below=0.03)
assert round(8 / 7, 2) == 1.14, "Bessel's correction at n = 8"
ratios = dict(zip(sweep["layer"], sweep["ratio"], strict=True))
assert round(ratios["torch.nn.BatchNorm2d"], 3) == 1.008 == round(128 / 127, 3), "PyTorch corrects"
assert ratios["keras.layers.BatchNormalization"] == 1, "Keras 3 does not"
assert ratios["flax.nnx.BatchNorm"] == 1, "nor does Flax"

# %%
# The doctor is asked of the same network on pixels a tenth as bright, where the loss suffers.

x = data.x_train / 10
y = data.y_train
source = network(norm_as_meant_there)
training.train(source, x, y, optimizer=keras.optimizers.Adam(0.003), steps=100, batch_size=128)


def found(cause, norm):
    model = network(norm)
    model.set_weights(source.get_weights())
    report = doctor.examine(model, (x[:512], y[:512]), only=[cause])
    return [finding.evidence for finding in report.findings]


wrong_norms = {
    "epsilon_of_another_framework": norm_with_epsilon_left_out,
    "momentum_of_another_framework": norm_with_momentum_copied,
}
for cause, norm in wrong_norms.items():
    evidence = found(cause, norm)
    print("the doctor, of the wrong port:", *evidence)
    assert evidence, f"{cause} fires on the wrong port"
    assert not found(cause, norm_as_meant_there), "and is silent on that by the book"
