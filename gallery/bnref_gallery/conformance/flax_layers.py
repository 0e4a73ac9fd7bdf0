"""The layers of Flax; replicas are those of `jax.pmap`, as its documentation shows them."""

from collections.abc import Callable

import numpy as np

from bnref_gallery.conformance.asking import Implementation, Outcome, Step

__all__ = ["FlaxLinen", "FlaxNnx"]

DEVICES = 8


class FlaxLayer(Implementation):
    """What the two interfaces of Flax share.

    `pmap` gives all replicas one shape, so that a smaller part is padded, and masked. A state has
    one row for each replica, and which of them is saved is left to the program.
    """

    modules, distributions = ("flax", "jax"), ("flax", "jax")
    cures = {"use_fast_variance": False}  # True is "less numerically stable", say the docstrings

    def __init__(self, *, synchronized: bool = False) -> None:
        self.synchronized = synchronized
        self.given = {"axis_name": "replicas"} if synchronized else {}

    double = {"dtype": "float64", "param_dtype": "float64"}

    def mixed(self, kind: str) -> dict:
        """Outputs in 16 bits; parameters and statistics stay in float32."""
        return {"dtype": kind}

    def options(self, step: Step) -> dict:
        """Those of the step, and the name of the axis to synchronize over."""
        return {**self.given, **super().options(step)}

    def run(self, step: Step) -> Outcome:
        """Train under `pmap`, or on one device without; with 64 bits where the parts have them."""
        import jax

        if jax.config.jax_num_cpu_devices < DEVICES:  # before JAX's first operation
            jax.config.update("jax_num_cpu_devices", DEVICES)
        with jax.enable_x64(step.parts[0].dtype == np.float64):
            return self.trained(step)

    def trained(self, step: Step) -> Outcome:
        """What a step leaves, as arrays of NumPy."""
        import jax

        count, sizes = len(step.parts), [len(part) for part in step.parts]
        given = {"x": padded(step.parts), "dy": step.dy and padded(step.dy)}
        if step.direction is not None:
            given |= {"weights": padded(step.weights), "direction": padded(step.direction)}
        if step.masks is not None:
            given["mask"] = padded(step.masks)[..., None]
        elif len(set(sizes)) > 1:
            given["mask"] = padded([np.ones((*p.shape[:-1], 1), bool) for p in step.parts])
        replica = self.replica(step)
        if count == 1:
            found = jax.tree.map(lambda v: v[None], replica(jax.tree.map(lambda v: v[0], given)))
        else:
            found = jax.pmap(replica, axis_name="replicas")(given)
        found = {name: None if v is None else np.array(v) for name, v in found.items()}
        mean, variance = (one_of(found[name]) for name in ("mean", "variance"))
        y, dx, along = (
            None
            if found[name] is None
            else [v[:n] for v, n in zip(found[name], sizes, strict=True)]
            for name in ("y", "dx", "along")
        )
        evaluated = found["evaluated"]
        evaluated = None if evaluated is None else list(evaluated)
        return Outcome(y, dx, mean, variance, evaluated, along)

    def replica(self, step: Step) -> Callable:
        """A function of a dict with x, dy and mask that returns a replica's arrays as a dict."""
        raise NotImplementedError


class FlaxLinen(FlaxLayer):
    """`flax.linen.BatchNorm`, in training unless `use_running_average` is True."""

    switches = {"BatchNorm(use_running_average=True)": "layer"}

    def replica(self, step: Step) -> Callable:
        """Apply it, with `batch_stats` mutable."""
        import jax
        from flax import linen

        options = self.options(step)
        layer = linen.BatchNorm(use_running_average=step.switch is not None, **options)
        start = layer.init(jax.random.PRNGKey(0), step.parts[0][:1])
        if step.start is not None:
            statistics = dict(zip(("mean", "var"), map(jax.numpy.array, step.start), strict=True))
            start = {**start, "batch_stats": statistics}

        def run(given):
            def train(x):
                return layer.apply(start, x, mask=given.get("mask"), mutable=["batch_stats"])

            y, pull, after = jax.vjp(train, given["x"], has_aux=True)
            evaluated = None
            if step.then is not None:
                trained = linen.BatchNorm(use_running_average=True, **options)
                evaluated = trained.apply({**start, **after}, step.then)
            statistics = after["batch_stats"] if after else start["batch_stats"]
            return {
                "y": y, "dx": None if given["dy"] is None else pull(given["dy"].astype(y.dtype))[0],
                "mean": statistics["mean"], "variance": statistics["var"], "evaluated": evaluated,
                "along": differentiated_along(train, given),
            }  # fmt: skip

        return run


class FlaxNnx(FlaxLayer):
    """`flax.nnx.BatchNorm`, in training from `model.train()` to `model.eval()`."""

    switches = {
        "BatchNorm(use_running_average=True)": "layer",
        "layer.eval() after every model.train()": "call",
    }

    def replica(self, step: Step) -> Callable:
        """Split it into its definition and state, and put it together on each replica."""
        import jax
        from flax import nnx

        options = self.options(step)
        if step.switch == "BatchNorm(use_running_average=True)":
            options["use_running_average"] = True
        layer = nnx.BatchNorm(step.parts[0].shape[-1], rngs=nnx.Rngs(0), **options)
        if step.start is not None:
            layer.mean[...], layer.var[...] = map(jax.numpy.array, step.start)
        definition, state = nnx.split(nnx.Sequential(layer))

        def run(given):
            def train(x):
                model = nnx.merge(definition, state, copy=True)
                model.train()
                if step.switch == "layer.eval() after every model.train()":
                    model.layers[0].eval()
                y = model.layers[0](x, mask=given.get("mask"))
                return y, nnx.state(model)

            y, pull, after = jax.vjp(train, given["x"], has_aux=True)
            model = nnx.merge(definition, after, copy=True)
            model.eval()
            layer = model.layers[0]
            return {
                "y": y, "dx": None if given["dy"] is None else pull(given["dy"].astype(y.dtype))[0],
                "mean": layer.mean[...], "variance": layer.var[...],
                "evaluated": None if step.then is None else layer(step.then),
                "along": differentiated_along(train, given),
            }  # fmt: skip

        return run


def differentiated_along(train, given):
    """The gradient of Σ weights · tanh(y) by x, differentiated along the direction; or None."""
    import jax

    if "direction" not in given:
        return None

    def loss(x):
        y, _ = train(x)
        return jax.numpy.sum(given["weights"] * jax.numpy.tanh(y))

    return jax.jvp(jax.grad(loss), (given["x"],), (given["direction"],))[1]


def one_of(states):
    """The state of all replicas, if it is the same on all; else all of them, shape (R, C)."""
    return (
        states[0] if all(np.array_equal(states[0], s, equal_nan=True) for s in states) else states
    )


def padded(parts):
    """One array, shape (R, N, ...), in which smaller parts are filled up with zeros."""
    size = max(len(part) for part in parts)
    widths = [[(0, size - len(part))] + [(0, 0)] * (part.ndim - 1) for part in parts]
    return np.stack([np.pad(part, width) for part, width in zip(parts, widths, strict=True)])
