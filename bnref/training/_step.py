"""One step of training on a global batch: the same code for one replica and for many."""

import numpy as np
import tensorflow as tf

from bnref._checks import whole_number
from bnref.training._batches import number_of, part, share
from bnref.training._losses import cross_entropy, weighted


class Step:
    """The compiled step of a run: gradients of the global batch's loss, applied once.

    Its parameters and errors are described at `bnref.training.Run`.
    """

    def __init__(self, model, optimizer, loss, *, accumulate, jit_compile):
        self.model, self.optimizer, self.loss = model, optimizer, loss or cross_entropy
        self.strategy, self.accumulate = model.distribute_strategy, accumulate
        self.replicas = self.strategy.num_replicas_in_sync
        whole_number("accumulate", accumulate)
        _check(optimizer, jit_compile, self.strategy)
        with self.strategy.scope():
            optimizer.build(model.trainable_variables)
        self._known = {id(each) for each in model.trainable_variables}
        options = {"reduce_retracing": True, "jit_compile": jit_compile or None}
        self._of_whole = tf.function(self._share_out, **options)
        self._of_shares = tf.function(self._learn_together, **options)

    def __call__(self, batch):
        """Take the step on a global batch, and return each replica's share of the loss.

        Parameters
        ----------
        batch : tuple
            (x, y) or (x, y, weights), the same on every worker; each replica takes its part.
        """
        return self._of_whole(batch, self._trainable())

    def on_shares(self, parts):
        """The same where the replicas already hold their shares.

        Parameters
        ----------
        parts : tuple of tuples
            (x, y) or (x, y, weights) for each of `accumulate` parts, distributed by the strategy.
        """
        return self._of_shares(parts, self._trainable())

    def _trainable(self):
        """What is frozen: where a layer has been since, this differs, and a graph is traced."""
        self._check_known()
        return tuple(each.trainable for each in self.model._flatten_layers())

    def _share_out(self, batch, trainable):
        def on_replica(batch):
            parts = (part(batch, number, of=self.accumulate) for number in range(self.accumulate))
            return self._learn([share(each) for each in parts], number_of(batch))

        return self.strategy.run(on_replica, (batch,))

    def _learn_together(self, parts, trainable):
        def on_replica(parts):
            examples = tf.add_n([number_of(each) for each in parts])
            if self.replicas > 1:
                examples = tf.distribute.get_replica_context().all_reduce("sum", examples)
            return self._learn(parts, examples)

        return self.strategy.run(on_replica, (parts,))

    def _learn(self, parts, examples):
        """Move the weights once, by this replica's parts of a batch of so many examples."""
        loss, gradients, weights = 0.0, [], self.model.trainable_variables
        for own in parts:
            with tf.GradientTape() as tape:
                share_of_loss = self._share_of_loss(*own, examples=examples)
                share_of_loss += self._share_of_penalty()
                scaled = self.optimizer.scale_loss(share_of_loss)
            gradients.append(tape.gradient(scaled, [each.value for each in weights]))
            loss += share_of_loss
        gradients = list(map(_sum, *gradients))
        if self.replicas > 1 and hasattr(self.optimizer, "dynamic_scale"):
            gradients = _spoilt_together(gradients)
        self.optimizer.apply(gradients, weights)
        return loss

    def _share_of_loss(self, x, y, weights=None, *, examples):
        """The replica's Σ w ℓ / N: the shares add up to the mean over the global batch."""
        losses = tf.cast(self.loss(y, self.model(x, training=True)), tf.float32)
        if losses.shape.rank:
            losses = weighted(losses, weights)
            return tf.reduce_sum(tf.reduce_mean(losses, range(1, losses.shape.rank))) / examples
        if self.replicas > 1 or weights is not None:
            raise ValueError(
                "loss must give one number an example, because the replicas' shares can differ in "
                "size and examples in weight; received one number for all: make it with "
                "reduction=None"
            )
        return losses * number_of((x, y)) / examples

    def _share_of_penalty(self):
        """The replica's 1/R of the model's own losses, so that together they count once."""
        if not self.model.losses:
            return 0.0
        penalized = [v for v in self.model.trainable_variables if v.regularizer is not None]
        if self.replicas > 1 and len(self.model.losses) > len(penalized):
            raise ValueError(
                "model must have no activity_regularizer and no add_loss with several replicas, as "
                "Keras takes one replica's for all; add them up in loss"
            )
        penalty = tf.add_n([tf.cast(each, tf.float32) for each in self.model.losses])
        return penalty / (self.replicas * self.accumulate)

    def _check_known(self):
        new = [v.path for v in self.model.trainable_variables if id(v) not in self._known]
        if new:
            raise ValueError(
                f"model must not be unfrozen after the step was made, as the optimizer does not "
                f"know {new[0]} and {len(new) - 1} more: make the optimizer and the step anew, or "
                "make the step before freezing"
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
    """Refuse what Keras's optimizers and XLA cannot do on several replicas."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return
    if jit_compile:
        raise ValueError(
            "jit_compile must be False with several replicas, as XLA cannot read other devices' "
            f"variables; received {jit_compile!r} with {replicas} replicas"
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for_each_share = (
        "clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps",
        "ema_overwrite_frequency",
    )  # fmt: skip
    if used := [name for name in for_each_share if getattr(inner, name, None)]:
        raise ValueError(
            f"optimizer must not use {used[0]} with several replicas: Keras applies it to each "
            f"replica's share of the gradient; received {type(inner).__name__} with "
            f"{used[0]}={getattr(inner, used[0])!r}"
        )
    homes = [getattr(each.value, "distribute_strategy", None) for each in optimizer.variables]
    if any(each is not strategy for each in homes):
        raise ValueError(
            "optimizer must be made in the scope of the model's strategy; received "
            f"{type(optimizer).__name__} made outside of it"
        )
