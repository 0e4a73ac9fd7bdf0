"""Models with one planted fault each, and their healthy twins: what the doctor is measured on.

``FAULTS["dropout_before"]()`` trains both in a second or two and returns ``(sick, healthy)``, each
a tuple of arguments of `bnref.doctor.examine`: model, data, and where it matters validation data
and the size of a batch. The name is that of the check that has to find it, or `cause_of` has that.
"""

from collections.abc import Callable

from bnref_gallery.sick_models import _healthy, _remembered, _replicas, _used, _values, _whose

__all__ = ["FAULTS", "HEALTHY", "cause_of"]

_ALL = [
    _whose.one_value_a_channel,
    _whose.small_batches,
    _whose.accumulated_gradients,
    _whose.last_batch_of_one,
    _whose.one_kind_a_batch,
    _whose.batches_not_shuffled,
    _whose.one_example_rules,
    _whose.batch_gives_the_answer,
    _whose.validation_of_another_kind,
    _whose.shared_by_branches,
    _whose.wrong_axis,
    _whose.padding_counted,
    _replicas.replicas_differ,
    _replicas.empty_replica,
    _replicas.mask_unsynchronizes,
    _remembered.never_updated,
    _remembered.impossible_population,
    _remembered.few_steps,
    _remembered.half_precision_population,
    _remembered.stale_population,
    _remembered.momentum_of_another_framework,
    _remembered.trembling_average,
    _remembered.weights_averaged_without_statistics,
    _remembered.dropout_before,
    _remembered.epsilon_of_another_framework,
    _remembered.saved_model_differs,
    _remembered.counts_in_a_variable_that_is_not_saved,
    _used.training_never_passed,
    _used.training_at_inference,
    _used.always_the_batchs,
    _used.untold_is_training,
    _used.moves_at_inference,
    _used.training_false_overridden,
    _used.frozen_after_compile,
    _values.norm_on_logits,
    _values.bias_without_effect,
    _values.large_mean,
    _values.variance_overflows,
    _values.dead_channels,
    _values.gamma_vanishes,
]
FAULTS: dict[str, Callable[[], tuple]] = {each.__name__: each for each in _ALL}
# Faults that show another side of a cause that has one already.
_FOUND_BY = {
    "always_the_batchs": "training_at_inference",
    "counts_in_a_variable_that_is_not_saved": "saved_model_differs",
}

# Nothing is wrong with these: ``HEALTHY["resnet50"]()`` returns the model and its data.
_WELL = [
    _healthy.two_hidden_layers,
    _healthy.with_dropout_behind,
    _healthy.nested_and_frozen,
    _healthy.subclass_with_a_skip,
    _healthy.convolutions,
    _healthy.scaled_images,
    _healthy.sequences,
    _healthy.mobilenet,
    _healthy.resnet50,
    _healthy.densenet121,
]
HEALTHY: dict[str, Callable[[], tuple]] = {each.__name__: each for each in _WELL}


def cause_of(fault: str) -> str:
    """The check that has to find a fault."""
    return _FOUND_BY.get(fault, fault)
