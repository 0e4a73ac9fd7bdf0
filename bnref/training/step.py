"""One step of training on a global batch: the same code for one replica and for many."""

import numpy as np
import tensorflow as tf

from bnref.training.sharing import check_whole, cut, share

__all__ = ["compiled_step"]


def compiled_step(model, optimizer, loss=None, *, accumulate=1, jit_compile=False):
    r"""One step of training as a function of a global batch, for loops that `train` does not fit.

    Every replica takes the gradient of its share of the mean loss over the global batch,

    .. math:: L = \sum_i \Bigl(\frac1N \sum_{j \in i} \ell_j + \frac{\Omega}{R}\Bigr),

    with N the examples of all R replicas together and Ω the model's own losses (``model.losses``),
    and the optimizer adds the R gradients up. So the step is that of one device with the whole
    batch, even where the replicas' shares are unequal or empty, as far as the layers allow: batch
    norm does if it is `bnref.layers.SyncBatchNorm`; Keras's dropout draws the same mask on every
    replica; and TensorFlow's convolutions on CPUs take no empty share.

    Parameters
    ----------
    model : keras.Model
        Built in the scope of its strategy, which the step takes over; one device without one.
    optimizer : keras.optimizers.Optimizer
        Made in the same scope; built here for the model's variables. With
        ``keras.optimizers.LossScaleOptimizer`` the loss is scaled, as float16 needs, and a step is
        left out by all replicas where the gradient of any is not finite. On several replicas
        without clipping and accumulation of its own, which Keras applies to each share.
    loss : callable (y, output) -> losses, optional
        One loss an example (an array for each is averaged). Sparse softmax cross-entropy on logits
        unless given.
    accumulate : int, ≥ 1
        The global batch is cut into so many parts, one after the other, whose gradients are added
        up before the weights move: memory for a part, not for the whole. Batch norm sees the
        parts: it normalizes by the statistics of each and remembers each, so that the step is not
        that of the whole batch, whichever layer is used.
    jit_compile : bool
        Compile by XLA. On one replica only, and XLA leaves the checks of the layers out.

    Returns
    -------
    callable (x, y) -> scalar tensor
        Takes the arrays of a global batch of any size; every worker gives the same and uses its
        share. Moves the weights once, and the populations `accumulate` times; returns the mean loss
        before. Its attribute ``on_replicas`` does the same and returns the replicas' shares of the
        loss, which need no collective. Where a layer has been frozen or unfrozen since the last
        call, it is traced anew, so that the change counts from the next step on.

    Raises
    ------
    ValueError
        `accumulate` below 1, `jit_compile` on several replicas, an optimizer made outside of the
        strategy's scope or with an option that several replicas cannot have; when called, `x` and
        `y` of different lengths, fewer examples than `accumulate`, and on several replicas a loss
        that is one number, or losses of outputs in ``model.losses``; weights that were frozen when
        the step was made and are trainable now, which the optimizer does not know.
    """
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    check_whole(accumulate=accumulate)
    _check(optimizer, jit_compile, strategy)
    loss = loss or _cross_entropy
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    known = {id(each) for each in model.trainable_variables}

    def on_replica(x, y):
        value, gradients, examples = 0.0, [], tf.cast(tf.shape(x)[0], tf.float32)
        for part in cut(x, y, parts=accumulate):
            with tf.GradientTape() as tape:
                own = _share_of_loss(model, loss, *share(*part), examples)
                if model.losses:
                    _check_losses(model)
                    penalty = tf.add_n([tf.cast(each, tf.float32) for each in model.losses])
                    own += penalty / (replicas * accumulate)
                scaled = optimizer.scale_loss(own)
            gradients.append(tape.gradient(scaled, [v.value for v in model.trainable_variables]))
            value += own
        gradients = list(map(_sum, *gradients))
        if replicas > 1 and hasattr(optimizer, "dynamic_scale"):
            gradients = _spoilt_together(gradients)
        optimizer.apply(gradients, model.trainable_variables)
        return value

    @tf.function(reduce_retracing=True, jit_compile=jit_compile or None)
    def traced(x, y, trainable):  # which layers are: another answer is another graph
        return strategy.run(on_replica, (x, y))

    def on_replicas(x, y):
        trainable = tuple(each.trainable for each in model._flatten_layers())
        _check_known(model, known)
        return traced(x, y, trainable)

    def step(x, y):
        if len(x) != len(y):
            raise ValueError(f"x and y must be equally long; received {len(x)} and {len(y)}")
        if len(x) < accumulate:
            raise ValueError(
                f"accumulate must be at most {len(x)}, the batch; received {accumulate}"
            )
        loss = on_replicas(x, y)
        return strategy.reduce("sum", loss, axis=None) if replicas > 1 else loss

    step.on_replicas = on_replicas
    return step


def _check_known(model, known):
    new = [each.path for each in model.trainable_variables if id(each) not in known]
    if new:
        raise ValueError(
            f"model must not be unfrozen after the step was made, as the optimizer does not know "
            f"{new[0]} and {len(new) - 1} more: make the optimizer and the step anew, or make the "
            "step before freezing"
        )


def _cross_entropy(y, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int64), logits)


def _share_of_loss(model, loss, x, y, examples):
    """The replica's Σ ℓ / N: the shares add up to the mean over the global batch."""
    losses = tf.cast(loss(y, model(x, training=True)), tf.float32)
    if losses.shape.rank:
        return tf.reduce_sum(tf.reduce_mean(losses, range(1, losses.shape.rank))) / examples
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "loss must give one number an example, because the replicas' shares can differ in size;"
            " received one number for all: make it with reduction=None"
        )
    return losses * tf.cast(tf.shape(x)[0], losses.dtype) / examples


def _check_losses(model):
    """Refuse losses of outputs on several replicas: Keras keeps them in one list for all."""
    penalized = [v for v in model.trainable_variables if v.regularizer is not None]
    several = model.distribute_strategy.num_replicas_in_sync > 1
    if several and len(model.losses) > len(penalized):
        raise ValueError(
            "model must have no activity_regularizer and no add_loss with several replicas, as "
            "Keras takes one replica's for all; add them up in loss"
        )


def _sum(*gradients):
    """Sum of gradients; None if all are None, as for a weight that is not used."""
    found = [each for each in gradients if each is not None]
    return tf.add_n(found) if len(found) > 1 else next(iter(found), None)


def _spoilt_together(gradients):
    """NaN on every replica if a gradient of any is not finite, so that all leave out the step.

    Keras's LossScaleOptimizer looks at the gradients of one replica only.
    """
    found = [each for each in gradients if each is not None]
    spoilt = [tf.reduce_any(~tf.math.is_finite(each)) for each in found]
    number = tf.add_n([tf.cast(each, tf.float32) for each in spoilt])
    number = tf.distribute.get_replica_context().all_reduce("sum", number)
    fault = tf.where(number > 0, np.nan, 0.0)
    return [each if each is None else each + tf.cast(fault, each.dtype) for each in gradients]


def _check(optimizer, jit_compile, strategy):
    replicas = strategy.num_replicas_in_sync
    if jit_compile and replicas > 1:
        raise ValueError(
            "jit_compile must be False with several replicas, as XLA cannot read other devices' "
            f"variables; received {jit_compile!r} with {replicas} replicas"
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    own = ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps",
           "ema_overwrite_frequency")  # fmt: skip
    if replicas > 1 and (used := [name for name in own if getattr(inner, name, None)]):
        raise ValueError(
            f"optimizer must not use {used[0]} with several replicas: Keras applies it to each "
            f"replica's share of the gradient; received {type(inner).__name__} with "
            f"{used[0]}={getattr(inner, used[0])!r}"
        )
    of = [getattr(each.value, "distribute_strategy", None) for each in optimizer.variables]
    if replicas > 1 and any(each is not strategy for each in of):
        raise ValueError(
            "optimizer must be made in the scope of the model's strategy; received "
            f"{type(optimizer).__name__} made outside of it"
        )
