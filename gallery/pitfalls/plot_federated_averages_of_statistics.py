"""
Statistics averaged over clients are nobody's: federated batch norm
===================================================================

Four clients have digits in fog of four densities, and train one network together by federated
averaging. With moving means and variances averaged like weights, its test accuracy is
:claim:`66 % <averaged>`. The averaged variance lacks the spread of the clients' means, but putting
that in gains :claim:`3 points <pooled>` only. With each client's own statistics the same weights
have :claim:`83 % <own>`. Adam as the server's optimizer does worse harm: after one round
:claim:`19 <negative>` of 128 variances are below 0, and the server's model returns NaN.

.. symptom:: validation far worse than training
   :cause: federated: the server's model has the mean of the clients' statistics
   :check: ``1 + means.var(0) / variances.mean(0)`` over clients: is it far above 1?
   :likelihood: sometimes
   :question: 1

.. symptom:: NaN or infinity
   :doctor: impossible_population
   :cause: federated: a server's optimizer (FedAdam, FedYogi) took a variance for a weight
   :check: ``[norm.path for norm in bnref.norms.find(model) if np.min(norm.variance) < 0]``
"""

# %%
# Check
# -----
# How much larger is the variance of all values than the mean of the clients' variances? It is near
# 1 where their data are alike. After a step of the server, ask the doctor.

from dataclasses import replace
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.federated import Clients
from bnref_gallery.restarts import restart


def missing_spread(means, variances):
    """The variance of all clients' values over the mean of theirs; both are (clients, C)."""
    return 1 + np.var(means, axis=0) / np.mean(variances, axis=0)


# %%
# Fix
# ---
# Let each client keep its norms: that gives :claim:`84 % <fedbn>`. A server's optimizer gets the
# trainable variables alone.
#
# Wrong
# ^^^^^


def averaged(clients):
    """The mean of each variable over the clients; a list of arrays for each client."""
    return [np.mean(values, axis=0) for values in zip(*clients, strict=True)]


# %%
# Right
# ^^^^^


def averaged_but_for_norms(clients, of_norm):
    """For each client the means; what is a norm's, by ``of_norm``, stays the client's own."""
    everyones = []
    for client in clients:
        triples = zip(client, averaged(clients), of_norm, strict=True)
        everyones.append([own if stays else mean for own, mean, stays in triples])
    return everyones


# %%
# Wrong, server's optimizer
# ^^^^^^^^^^^^^^^^^^^^^^^^^


def server_step(adam, model, mean_of_clients):
    pairs = zip(model.get_weights(), mean_of_clients, strict=True)
    changes = [old - new for old, new in pairs]
    adam.apply(changes, model.variables)


# %%
# Right, server's optimizer
# ^^^^^^^^^^^^^^^^^^^^^^^^^


def server_step_of_weights(adam, model, mean_of_clients):
    trained, changes = [], []
    for variable, mean in zip(model.variables, mean_of_clients, strict=True):
        if variable.trainable:
            trained.append(variable)
            changes.append(variable.numpy() - mean)
        else:
            variable.assign(mean)
    adam.apply(changes, trained)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics). Of clients of equal size, with means m and
# variances v, the values of all together have the variance
#
# .. math:: \sigma^2 = \overline{v} + \overline{(m - \overline{m})^2} .
#
# Averaging leaves the second part out: with it the variances of the first norm are
# :claim:`1.3 times <spread>` as large here. But not even σ² fits: in training each client was
# normalized by its own batches, so the weights behind were trained on values of mean 0 and
# deviation 1 from each. FedBN (Li et al. 2021, arXiv 2102.07623) keeps γ, β and statistics on the
# clients, SiloBN (Andreux et al. 2020, arXiv 2008.07424) the statistics alone.
#
# Adam moves each variable by about its rate η, whatever its size (on a server: Reddi et al. 2021,
# arXiv 2003.00295, Algorithm 2). A variance below η that has to fall is negative after one round.
# Met in `flwrlabs/flower#1060 <https://github.com/flwrlabs/flower/issues/1060>`_ and
# `VectorInstitute/FL4Health#39 <https://github.com/VectorInstitute/FL4Health/pull/39>`_; mended as
# here in `NVIDIA/NVFlare#1851 <https://github.com/NVIDIA/NVFlare/pull/1851>`_.
#
# Experiment
# ----------
# Four clients of 750 digits, five rounds of 20 steps each; tested on 1,000 digits in each fog.

full = datasets.load("mnist").take(train=3000, test=1000)
data = replace(full, x_train=full.x_train[:, ::2, ::2], x_test=full.x_test[:, ::2, ::2])
network = partial(
    models.perceptron, partial(bnref.BatchNorm, momentum=0.9), inputs=(14, 14, 1), units=(64, 64)
)
model = network()
run = training.Run(model, keras.optimizers.SGD(0.1))
clients = Clients(run, data, fogs=(0.0, 0.2, 0.4, 0.6), steps=20, batch_size=32)
of_norm = ["batch_norm" in variable.path for variable in model.variables]
names = np.array([variable.name for variable in model.variables])
MEANS, VARIANCES = (np.flatnonzero(names == each) for each in ("moving_mean", "moving_variance"))

# %%
# The same trained weights with three kinds of statistics, and FedBN.


def federated(seed, one_for_all):
    restart(model, run.optimizer, network, seed=seed)
    clients.begin(seed)
    sent = [model.get_weights()] * 4
    for _ in range(5):
        ended = clients.train(sent)
        sent = [averaged(ended)] * 4 if one_for_all else averaged_but_for_norms(ended, of_norm)
    return ended, sent


def with_spread(server, ended):
    changed = list(server)
    for m, v in zip(MEANS, VARIANCES, strict=True):
        means, variances = ([client[k] for client in ended] for k in (m, v))
        changed[v] = server[v] * missing_spread(means, variances)
    return changed


def with_own_statistics(server, client):
    changed = list(server)
    for k in (*MEANS, *VARIANCES):
        changed[k] = client[k]
    return changed


ARMS = ["averaged", "spread put in", "each client's\nown", "FedBN"]
accuracies, spreads, servers = [], [], []
for seed in range(scale.at_scale(quick=3, full=10)):
    ended, sent = federated(seed, one_for_all=True)
    server, pooled = sent[0], with_spread(sent[0], ended)
    own = [with_own_statistics(server, client) for client in ended]
    local = federated(seed, one_for_all=False)[1]
    accuracies.append([clients.accuracy(arm) for arm in (sent, [pooled] * 4, own, local)])
    spreads.append(np.median(pooled[VARIANCES[0]] / server[VARIANCES[0]]))
    servers.append(server)

# %%
# One more round, with Adam on the server.


def after_adam(step, server, mean):
    """Variances after the step, whether all outputs are finite, and what the doctor finds."""
    model.set_weights(server)
    step(keras.optimizers.Adam(0.1), model, mean)
    finite = np.isfinite(model(data.x_test, training=False)).all()
    report = doctor.examine(model, (data.x_test, data.y_test), only=["impossible_population"])
    variances = np.concatenate([model.variables[k] for k in VARIANCES])
    return variances, finite, [each.evidence for each in report.findings]


after = {server_step: [], server_step_of_weights: []}
for server in servers:
    mean = averaged(clients.train([server] * 4))
    for step, rows in after.items():
        rows.append(after_adam(step, server, mean))
wrong, right = after.values()

# %%

fig, (left, adam) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
for row, style in enumerate(("C1X", "C1P", "C0o", "C0s")):
    left.plot([found[row] for found in accuracies], [row] * len(accuracies), style)
left.set(title="Federated averaging", xlabel="test accuracy", ylabel="statistics", xlim=(0, 1))
left.set(ylim=(3.5, -0.5), yticks=range(4), yticklabels=ARMS)
before = [np.concatenate([server[k] for k in VARIANCES]) for server in servers]
for rows, style, label in ((wrong, "C1x", "all variables"), (right, "C0.", "trainable ones")):
    adam.plot(np.ravel(before), np.ravel([row[0] for row in rows]), style, ms=4, label=label)
adam.axhline(0, color="C7", lw=1)
adam.set(title="Adam on the server", xlabel="variance before the round", ylabel="after it")
adam.set(xlim=(0, 0.6), ylim=(-0.15, 0.9))
adam.legend(loc="upper left")
plt.show()

# %%
# Proof
# -----
# The accuracies by seed, and what Adam leaves.

once, put_in, own, local = np.transpose(accuracies)
claim("averaged", once, "test accuracy, statistics averaged", below=0.8)
claim("pooled", put_in - once, "gained by the spread of the means", above=-0.02, below=0.15)
claim("own", own, "test accuracy, each client's own statistics", above=0.74)
claim("fedbn", local, "test accuracy, FedBN", above=0.78)
claim("spread", spreads, "median over the first norm's channels", above=1.1, below=3)
assert (own - put_in > 0.05).all(), "own statistics are better than those of all clients"
claim("negative", [np.sum(row[0] < 0) for row in wrong], "variances below 0, of 128", above=3)
assert all(found and not finite for _, finite, found in wrong), "NaN, and the check fires"
assert all(finite and not found for _, finite, found in right), "neither with the right step"
alike = np.random.default_rng(0).normal(size=(4, 500, 64))
assert missing_spread(alike.mean(1), alike.var(1)).max() < 1.05, "1 where clients are alike"
