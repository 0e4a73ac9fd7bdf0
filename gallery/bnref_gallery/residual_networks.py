"""A small residual network, and the ways to begin its branches.

The other networks of the pages are in `bnref_gallery.models`.
"""

from collections.abc import Callable

import keras

from bnref_gallery.models import check_norm

__all__ = ["SkipInit", "residual"]


@keras.saving.register_keras_serializable("bnref_gallery")
class SkipInit(keras.layers.Layer):
    """Multiply by one number that is trained and begins at 0: ``SkipInit()``.

    At the end of each branch of a residual network it makes every block the identity at first, as
    γ = 0 in the branch's last norm does (De & Smith 2020, arXiv 2002.10444, section 3).
    """

    def build(self, input_shape):
        """Make the number."""
        self.alpha = self.add_weight(name="alpha", initializer="zeros")
        self.built = True

    def call(self, inputs):
        """Return inputs of any shape, each value times the number."""
        return self.alpha * inputs


def residual(
    norm: Callable | None, *, last: Callable | None = None, image_shape: tuple = (32, 32, 3),
    filters: tuple = (16, 32, 64), blocks: int = 3, stride: int = 1, classes: int = 10,
) -> keras.Model:  # fmt: skip
    """A residual network for small images, of 2 · ``len(filters) · blocks`` + 2 layers.

    He et al. 2016, arXiv 1512.03385, section 4.2: 20 layers and 270,000 weights as it stands. A
    block is ``relu(x + branch(x))``, the branch convolution, norm, ReLU, convolution, norm; where
    the width changes, x is convolved by 1×1 with stride 2, without norm.

    Parameters
    ----------
    norm : callable or None
        Without norms the convolutions have biases.
    last : callable or None
        Makes the layer that ends each branch; `norm` if None. `SkipInit`, or a norm whose γ begins
        at 0 (Goyal et al. 2017, arXiv 1706.02677, section 5.1), make each block the identity.
    image_shape : (H, W, C)
    filters : sequence of int
        The width of each stage; from the second on a stage halves the image.
    blocks, classes : int
    stride : int
        Of the first convolution: 2 makes all that follows four times cheaper.

    Returns
    -------
    keras.Model
        From images (N, H, W, C) to logits (N, classes).
    """
    check_norm(norm)
    check_norm(last, name="last")
    x = inputs = keras.Input(image_shape)
    x = _convolved(x, filters[0], 3, stride, norm)
    x = keras.layers.ReLU()(_normed(x, norm))
    for stage, width in enumerate(filters):
        for block in range(blocks):
            x = _block(x, width, 2 if stage and not block else 1, norm, last or norm)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def _block(x, width, stride, norm, last):
    branch = _normed(_convolved(x, width, 3, stride, norm), norm)
    branch = keras.layers.ReLU()(branch)
    branch = _normed(_convolved(branch, width, 3, 1, norm), last)
    if stride > 1 or x.shape[-1] != width:
        x = _convolved(x, width, 1, stride, norm)
    return keras.layers.ReLU()(keras.layers.Add()([x, branch]))


def _convolved(x, width, size, stride, norm):
    layer = keras.layers.Conv2D(
        width, size, stride, padding="same", use_bias=norm is None, kernel_initializer="he_normal"
    )
    return layer(x)


def _normed(x, norm):
    return norm()(x) if norm else x
