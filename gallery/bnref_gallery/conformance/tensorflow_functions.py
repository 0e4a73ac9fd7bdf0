"""TensorFlow's functions: `tf.layers.batch_normalization` in a session, and the fused operation."""

import tempfile
import warnings

import numpy as np
import tensorflow as tf

from bnref import tf1
from bnref_gallery.conformance.asking import Implementation, Outcome, Step
from bnref_gallery.conformance.replicas import differentiated_along, everywhere

__all__ = ["FusedBatchNorm", "LayersFunction"]

v1 = tf.compat.v1


class LayersFunction(Implementation):
    """`tf.layers.batch_normalization` in a graph; a replica is a tower that shares its variables.

    The train step runs `UPDATE_OPS`; what is saved is what `Saver` writes.
    """

    distributions = ("tf_keras", "tensorflow")
    switches = {"trainable=False": "layer", "training=False": "call"}

    def run(self, step: Step) -> Outcome:
        """Build the towers, run one step of all, save, and evaluate in each tower."""
        with tf1.tensorflow_1(resource_variables=True), v1.Session() as session:
            x = [tf.constant(part) for part in step.parts]
            y = [self.tower(index, each, step) for index, each in enumerate(x)]
            dx = step.dy and [
                tf.gradients(out, into, tf.cast(dy, out.dtype))[0]
                for out, into, dy in zip(y, x, step.dy, strict=True)
            ]
            along = step.direction and second_gradients(x, y, step)
            updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
            moving = [v1.global_variables(f".*moving_{name}")[0] for name in ("mean", "variance")]
            session.run(v1.global_variables_initializer())
            if step.start is not None:
                session.run([v.assign(value) for v, value in zip(moving, step.start, strict=True)])
            y, dx, along, _ = session.run([y, dx or [], along or [], updates])
            with tempfile.TemporaryDirectory() as folder:
                path = v1.train.Saver().save(session, f"{folder}/model")
                saved = tf.train.load_checkpoint(path)
                mean, variance = (saved.get_tensor(each.op.name) for each in moving)
            evaluated = step.then is not None and session.run(self.inference(step))
            return Outcome(y, dx or None, mean, variance, evaluated or None, along or None)

    def tower(self, index: int, x: tf.Tensor, step: Step) -> tf.Tensor:
        """The layer in training, with the variables of the first tower."""
        options = self.options(step)
        if step.masks is not None:
            options["mask"] = step.masks[index]
        if step.switch == "trainable=False":
            options["trainable"] = False
        training = step.switch != "training=False"
        return normalized(x, training=training, reuse=index > 0, **options)

    def inference(self, step: Step) -> list[tf.Tensor]:
        """Each tower's outputs at inference: by the variables that all of them share."""
        x, options = tf.constant(step.then), self.options(step)
        return [normalized(x, training=False, reuse=True, **options) for _ in step.parts]


def second_gradients(x, y, step):
    """The gradient of Σ weights · tanh(y) by x, differentiated along the direction, in a graph."""
    losses = [tf.reduce_sum(w * tf.tanh(each)) for w, each in zip(step.weights, y, strict=True)]
    gradients = tf.gradients(losses, x)
    pairs = zip(gradients, step.direction, strict=True)
    return tf.gradients([tf.reduce_sum(each * direction) for each, direction in pairs], x)


def normalized(x, *, training, **options):
    """`tf.layers.batch_normalization`, as tf_keras has kept it."""
    from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return batch_normalization(x, training=training, name="norm", **options)


class FusedBatchNorm(Implementation):
    """`tf.compat.v1.nn.fused_batch_norm`: the averages are arguments, and come back updated."""

    distributions = ("tensorflow",)
    momentum, weighs_new, saves = "exponential_avg_factor", True, False
    switches = {"is_training=False": "call"}

    def run(self, step: Step) -> Outcome:
        """Call it on each replica; the averages of the first are those that are returned."""
        channels = step.parts[0].shape[-1]
        one, zero = tf.ones(channels), tf.zeros(channels)
        options = self.options(step)
        old = step.start or (zero, one)
        frozen, given = step.switch is not None, {"mean": old[0], "variance": old[1]}
        if options.get(self.momentum, 1.0) == 1.0 and not frozen:
            given = {}  # as it wants it: nothing is kept of the old averages

        def train(x, mask):
            whose = {} if mask is None else {"mask": mask}
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, mean, variance = v1.nn.fused_batch_norm(
                    x, one, zero, is_training=not frozen, **given, **options, **whose
                )
            return y, mean, variance, tape

        if step.direction is not None:
            y, along = everywhere(
                lambda *given: differentiated_along(lambda x: train(x, None)[0], *given),
                step.parts, step.weights, step.direction,
            )  # fmt: skip
            return Outcome(y, None, None, None, None, along)
        if step.dy is None:
            y, mean, variance = everywhere(lambda *a: train(*a)[:3], step.parts, step.masks)
            return Outcome(y, None, mean[0], variance[0], None)

        def with_gradient(x, dy, mask):
            y, mean, variance, tape = train(x, mask)
            return y, tape.gradient(y, x, tf.cast(dy, y.dtype)), mean, variance

        y, dx, mean, variance = everywhere(with_gradient, step.parts, step.dy, step.masks)
        return Outcome(y, dx, np.array(mean[0]), np.array(variance[0]), None)
