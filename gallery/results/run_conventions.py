"""Record what each framework installed here remembers of one batch, and by which defaults.

``python gallery/results/run_conventions.py``: every batch-norm layer is made with its defaults and
trained on one batch of known mean and variance, from known population statistics. From what it
remembers follow the weight of the new batch, and the variance it took over that of the biased one:
1, or n/(n − 1). Needs torch and flax besides this project's packages; one that is not installed is
left out, and said so. A few seconds.
"""

import sys
from importlib import metadata

import numpy as np

from bnref_gallery import records

BATCH = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 5)).astype("f4")  # n = 128 a channel
MEAN, VARIANCE = BATCH.mean((0, 1, 2)), BATCH.var((0, 1, 2))
COLUMNS = ("layer", "version", "momentum", "epsilon", "new", "ratio", "n")


def torch_layer():
    import torch

    layer = torch.nn.BatchNorm2d(5)
    layer(torch.tensor(BATCH.transpose(0, 3, 1, 2)))
    return "torch", layer.momentum, layer.eps, layer.running_mean.numpy(), layer.running_var.numpy()


def flax_linen():
    import flax.linen
    import jax

    layer = flax.linen.BatchNorm(use_running_average=False)
    start = layer.init(jax.random.PRNGKey(0), BATCH)
    _, after = layer.apply(start, BATCH, mutable=["batch_stats"])
    found = after["batch_stats"]
    return "flax", layer.momentum, layer.epsilon, found["mean"], found["var"]


def flax_nnx():
    from flax import nnx

    layer = nnx.BatchNorm(5, rngs=nnx.Rngs(0), use_running_average=False)
    layer(BATCH)
    return (
        "flax",
        layer.momentum,
        layer.epsilon,
        np.array(layer.mean[...]),
        np.array(layer.var[...]),
    )


def keras_layer(package, **options):
    layer = __import__(package).layers.BatchNormalization(**options)
    layer(BATCH, training=True)
    values = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    return package.replace("_", "-"), layer.momentum, layer.epsilon, *values


LAYERS = {
    "keras.layers.BatchNormalization": lambda: keras_layer("keras"),
    "tf_keras.layers.BatchNormalization": lambda: keras_layer("tf_keras"),
    "tf_keras.layers.BatchNormalization(fused=False)": lambda: keras_layer("tf_keras", fused=False),
    "torch.nn.BatchNorm2d": torch_layer,
    "flax.linen.BatchNorm": flax_linen,
    "flax.nnx.BatchNorm": flax_nnx,
}


def measured(name):
    """A row: the weight of the new batch and the variance taken, from one update of 0 and 1."""
    package, momentum, epsilon, mean, variance = LAYERS[name]()
    new = np.mean(np.asarray(mean) / MEAN)
    ratio = np.mean((np.asarray(variance) - (1 - new)) / new / VARIANCE)
    new, ratio = round(float(new), 5), round(float(ratio), 5)
    row = (name, metadata.version(package), momentum, epsilon, new, ratio, 128)
    return [dict(zip(COLUMNS, row, strict=True))]


if __name__ == "__main__":
    record = records.Record(
        records.path_of("conventions.csv"), key=("layer",), columns=COLUMNS, provenance={}
    )
    for one in record.progress([{"layer": name} for name in LAYERS]):
        try:
            record.add(measured(one["layer"]))
        except ImportError as error:
            print(f"{one['layer']} left out: {error}", file=sys.stderr)
