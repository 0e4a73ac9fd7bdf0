"""One step of training on a global batch: the same code for one replica and for many."""

import contextlib

import tensorflow as tf

from bnref._checks import whole_number
from bnref.training._added import AddedLosses, refuse_sums
from bnref.training._batches import number_of, part, share
from bnref.training._gradients import Clipping, spoilt_together, summed
from bnref.training._losses import combined, mean_of_each, weighted
from bnref.training._randomness import own_of_each_replica


class Step:
    """The compiled step of a run: gradients of the global batch's loss, applied once.

    Its parameters and errors are described at `bnref.training.Run`.
    """

    def __init__(self, model, optimizer, loss, *, accumulate, jit_compile):
        self.model, self.optimizer, self.loss = model, optimizer, combined(loss)
        self.strategy, self.accumulate = model.distribute_strategy, accumulate
        self.replicas = self.strategy.num_replicas_in_sync
        whole_number("accumulate", accumulate)
        _check(optimizer, jit_compile, self.strategy)
        refuse_sums(model, self.replicas * accumulate)
        with self.strategy.scope():
            optimizer.build(model.trainable_variables)
        self._clipping, self._added = Clipping(optimizer), AddedLosses(model)
        self.weights = model.trainable_variables  # those that the optimizer knows
        self._known = {id(each) for each in self.weights}
        self._jit_compile, self._traced = jit_compile or None, {}

    def __call__(self, batch):
        """Take the step on a global batch, and return each replica's share of the loss.

        Parameters
        ----------
        batch : tuple
            (x, y) or (x, y, weights), the same on every worker; each replica takes its part.
        """
        return self._compiled(self._share_out)(batch)

    def on_shares(self, parts):
        """The same where the replicas already hold their shares.

        Parameters
        ----------
        parts : tuple of tuples
            (x, y) or (x, y, weights) for each of `accumulate` parts, distributed by the strategy.
        """
        return self._compiled(self._learn_together)(parts)

    def _compiled(self, function):
        """The function, traced for what is trainable now: a layer may have been frozen since.

        One ``tf.function`` for each case. Given to a single one as an argument, the flags of all
        layers take as long as a third of the step of a small network.
        """
        self._check_known()
        case = function.__name__, tuple(each.trainable for each in self.model._flatten_layers())
        if case not in self._traced:
            options = {"reduce_retracing": True, "jit_compile": self._jit_compile}
            self._traced[case] = tf.function(function, **options)
        return self._traced[case]

    def _share_out(self, batch):
        def on_replica(batch):
            parts = (part(batch, number, of=self.accumulate) for number in range(self.accumulate))
            return self._learn([share(each) for each in parts], number_of(batch))

        return self._everywhere(on_replica, batch)

    def _learn_together(self, parts):
        def on_replica(parts):
            examples = tf.add_n([number_of(each) for each in parts])
            if self.replicas > 1:
                examples = tf.distribute.get_replica_context().all_reduce("sum", examples)
            return self._learn(parts, examples)

        return self._everywhere(on_replica, parts)

    def _everywhere(self, on_replica, given):
        """Run a function on each replica; one alone leaves the clipping to the optimizer."""
        several = self.replicas > 1
        with (
            self._added.kept_apart(),
            self._clipping.taken_over() if several else contextlib.nullcontext(),
        ):
            return self.strategy.run(on_replica, (given,))

    def _learn(self, parts, examples):
        """Move the weights once, by this replica's parts of a batch of so many examples."""
        loss, gradients, weights = 0.0, [], self.model.trainable_variables
        with own_of_each_replica(self.model):
            for own in parts:
                with tf.GradientTape() as tape:
                    share_of_loss = self._share_of_loss(*own, examples=examples)
                    share_of_loss += self._share_of_penalty()
                    scaled = self.optimizer.scale_loss(share_of_loss)
                gradients.append(tape.gradient(scaled, [each.value for each in weights]))
                loss += share_of_loss
        gradients = list(map(summed, *gradients))
        if self.replicas > 1:
            if hasattr(self.optimizer, "dynamic_scale"):
                gradients = spoilt_together(gradients)
            gradients = self._clipping(gradients)
        self.optimizer.apply(gradients, weights)
        return loss

    def _share_of_loss(self, x, y, weights=None, *, examples):
        """The replica's Σ w ℓ / N: the shares add up to the mean over the global batch.

        So does its n / N of what layers have added, a mean over its n examples.
        """
        output, added = self._added.of_pass(x)
        losses = tf.cast(self.loss(y, output), tf.float32)
        part_of_all = number_of((x, y)) / examples
        if losses.shape.rank:
            total = tf.reduce_sum(mean_of_each(weighted(losses, weights)))
            return total / examples + added * part_of_all
        if self.replicas > 1 or weights is not None:
            raise ValueError(
                "loss must give one number an example, because the replicas' shares can differ in "
                "size and examples in weight; received one number for all: make it with "
                "reduction=None"
            )
        return (losses + added) * part_of_all

    def _share_of_penalty(self):
        """The replica's 1/R of the regularizers of weights, so that together they count once."""
        weights = [v for v in self.model.trainable_variables if v.regularizer is not None]
        if not weights:
            return 0.0
        penalty = tf.add_n([tf.cast(v.regularizer(v), tf.float32) for v in weights])
        return penalty / (self.replicas * self.accumulate)

    def _check_known(self):
        new = [v.path for v in self.model.trainable_variables if id(v) not in self._known]
        if new:
            raise ValueError(
                f"model must not be unfrozen after the step was made, as the optimizer does not "
                f"know {new[0]} and {len(new) - 1} more: make the optimizer and the step anew, or "
                "make the step before freezing"
            )


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
    for_each_share = "gradient_accumulation_steps", "ema_overwrite_frequency"
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
