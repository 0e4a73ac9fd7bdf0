"""The causes that can be decided from a model and its data, arranged by the three questions.

`CHECKS` has them by name, in the order in which they are asked, the likeliest explanation first.
"""

from bnref.doctor.checks import (
    _epsilon,
    _frozen,
    _order,
    _remembered,
    _remembered_for,
    _saved,
    _used,
    _used_for,
    _whose_axes,
    _whose_batch,
    _whose_size,
)
from bnref.doctor.checks._check import CHECKS as _REGISTERED
from bnref.doctor.checks._check import Check, Found, Undecided

# What explains the rest comes first: a model that is never told that it is trained has a stale
# population too.
_ASKED = [
    _used.training_never_passed,
    _remembered.never_updated,
    _remembered.impossible_population,
    _used_for.variance_overflows,
    _remembered.half_precision_population,
    _used.training_at_inference,
    _used.untold_is_training,
    _used.moves_at_inference,
    _whose_size.one_value_a_channel,
    _whose_axes.wrong_axis,
    _whose_axes.shared_by_branches,
    _order.one_kind_a_batch,
    _order.batches_not_shuffled,
    _remembered_for.dropout_before,
    _whose_axes.padding_counted,
    _whose_axes.mask_unsynchronizes,
    _whose_size.replicas_differ,
    _whose_batch.one_example_rules,
    _used_for.large_mean,
    _used_for.norm_on_logits,
    _frozen.training_false_overridden,
    _frozen.frozen_after_compile,
    _remembered_for.momentum_of_another_framework,
    _epsilon.epsilon_of_another_framework,
    _remembered_for.weights_averaged_without_statistics,
    _remembered.few_steps,
    _whose_size.accumulated_gradients,
    _whose_size.small_batches,
    _whose_batch.batch_gives_the_answer,
    _remembered_for.trembling_average,
    _used_for.gamma_vanishes,
    _remembered.stale_population,
    _saved.saved_model_differs,
    _whose_size.empty_replica,
    _whose_size.last_batch_of_one,
    _used_for.bias_without_effect,
    _used_for.dead_channels,
    _whose_batch.validation_of_another_kind,
]
CHECKS: dict[str, Check] = {each.__name__: _REGISTERED[each.__name__] for each in _ASKED}

__all__ = ["CHECKS", "Check", "Found", "Undecided"]
