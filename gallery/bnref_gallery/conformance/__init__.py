"""The conformance table: implementations down, behaviours across, each cell measured.

`IMPLEMENTATIONS` says how each is run, `BEHAVIOURS` what is asked of it and by which rule the
answer is judged. PyTorch, Flax and tf_keras are imported when a cell of theirs is measured.
"""

from bnref_gallery.conformance import differentiating, normalizing, remembering, whose
from bnref_gallery.conformance.asking import ABSENT, REFUSALS, VERDICTS, Cell, said
from bnref_gallery.conformance.flax_layers import FlaxLinen, FlaxNnx
from bnref_gallery.conformance.keras_layers import KerasLayer
from bnref_gallery.conformance.tensorflow_functions import FusedBatchNorm, LayersFunction
from bnref_gallery.conformance.torch_layers import TorchLayer

__all__ = ["BEHAVIOURS", "IMPLEMENTATIONS", "VERDICTS", "measured"]

KERAS, TF_KERAS = "keras.layers.BatchNormalization", "tf_keras.layers.BatchNormalization"
IMPLEMENTATIONS = {
    "bnref.BatchNorm": KerasLayer("bnref", "bnref.BatchNorm"),
    "bnref.MaskedBatchNorm": KerasLayer("bnref", "bnref.MaskedBatchNorm"),
    "bnref.PooledBatchNorm": KerasLayer("bnref", "bnref.PooledBatchNorm"),
    "bnref.ReplicaMeanBatchNorm": KerasLayer("bnref", "bnref.ReplicaMeanBatchNorm"),
    "bnref.SyncBatchNorm": KerasLayer("bnref", "bnref.SyncBatchNorm"),
    KERAS: KerasLayer("keras", KERAS),
    f"{KERAS}(synchronized=True)": KerasLayer("keras", KERAS, synchronized=True),
    TF_KERAS: KerasLayer("tf_keras", TF_KERAS, library="tf_keras"),
    f"{TF_KERAS}(fused=False)": KerasLayer("tf_keras", TF_KERAS, library="tf_keras", fused=False),
    f"{TF_KERAS}(synchronized=True)": KerasLayer(
        "tf_keras", TF_KERAS, library="tf_keras", synchronized=True
    ),
    "tf.layers.batch_normalization": LayersFunction(),
    "tf.compat.v1.nn.fused_batch_norm": FusedBatchNorm(),
    "torch.nn.BatchNorm2d": TorchLayer("BatchNorm2d"),
    "torch.nn.SyncBatchNorm": TorchLayer("SyncBatchNorm"),
    "flax.linen.BatchNorm": FlaxLinen(),
    "flax.linen.BatchNorm(axis_name=…)": FlaxLinen(synchronized=True),
    "flax.nnx.BatchNorm": FlaxNnx(),
    "flax.nnx.BatchNorm(axis_name=…)": FlaxNnx(synchronized=True),
}
BEHAVIOURS = {
    "momentum": remembering.momentum,
    "first step": remembering.first_step,
    "epsilon": normalizing.epsilon,
    "variance remembered": remembering.variance_kept,
    "one value": normalizing.one_value,
    "large mean": normalizing.large_mean,
    "mask": whose.masked,
    "frozen": whose.frozen,
    "uneven replicas": whose.uneven,
    "saved": remembering.saved,
    "float16": normalizing.float16,
    "bfloat16": normalizing.bfloat16,
    "gradient": normalizing.gradients,
    "second derivative": differentiating.second_derivatives,
}


def measured(implementation: str, behaviour: str) -> Cell:
    """Measure one cell.

    Parameters
    ----------
    implementation, behaviour : str
        A key of `IMPLEMENTATIONS` and one of `BEHAVIOURS`.

    Returns
    -------
    Cell
        With a verdict of `VERDICTS`. What refuses to be asked at all is "not offered", and its
        details are the error.
    """
    row = IMPLEMENTATIONS[implementation]
    try:
        cell = BEHAVIOURS[behaviour](row)
    except REFUSALS as error:
        cell = Cell(ABSENT, "refused", said(error))
    return cell if cell.verdict == ABSENT else cell._replace(value=f"{row.note}{cell.value}")
