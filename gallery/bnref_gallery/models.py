"""The small networks of the pages. Each takes ``norm``, which makes a normalization layer.

``norm`` is called without arguments once for each place: ``norm=bnref.BatchNorm``,
``norm=lambda: bnref.BatchNorm(momentum=0.9)``, or None for no normalization.
"""

from collections.abc import Callable

import keras

__all__ = ["check_norm", "perceptron", "three_convolutions", "two_convolutions"]


def two_convolutions(
    norm: Callable | None, *, image_shape: tuple = (28, 28, 1), filters: tuple = (32, 64),
    units: int = 1024, dropout: float = 0.5, classes: int = 10, norm_on_logits: bool = False,
) -> keras.Model:  # fmt: skip
    """The network of the post "with and without": two 5×5 convolutions and one wide layer.

    Normalization stands before the activation of the second convolution and of the wide layer,
    where the post has it; in the post it stands on the logits too (`norm_on_logits`).

    Parameters
    ----------
    norm : callable or None
    image_shape : (H, W, C)
    filters : (int, int)
    units, classes : int
    dropout : float, 0 ≤ dropout < 1
        The share of the wide layer's units that is dropped in training.

    Returns
    -------
    keras.Model
        From images (N, H, W, C) to logits (N, classes). Its weights come from Keras's random state:
        call ``keras.utils.set_random_seed`` first.
    """
    check_norm(norm)
    layers = [keras.Input(image_shape)]
    for index, width in enumerate(filters):
        layers.append(keras.layers.Conv2D(width, 5, padding="same"))
        layers += [norm()] if norm and index else []
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(units)]
    layers += [norm()] if norm else []
    layers += [keras.layers.ReLU(), keras.layers.Dropout(dropout), keras.layers.Dense(classes)]
    layers += [norm()] if norm and norm_on_logits else []
    return keras.Sequential(layers)


def perceptron(
    norm: Callable | None, *, inputs: tuple, units: tuple = (128, 128), outputs: int = 10,
    activation: str = "relu", dropout: float = 0.0,
) -> keras.Model:  # fmt: skip
    """Fully connected layers, each normalized before its activation.

    Parameters
    ----------
    norm : callable or None
    inputs : tuple
        The shape of one input; it is flattened.
    units : sequence of int
    outputs : int
    activation : str
        Of the hidden layers, by its Keras name; the outputs are linear.
    dropout : float, 0 ≤ dropout < 1
        The share of each hidden layer's units that is dropped in training, after the activation.

    Returns
    -------
    keras.Model
        From shape (N, ..., as `inputs`) to (N, outputs).
    """
    check_norm(norm)
    layers = [keras.Input(inputs), keras.layers.Flatten()]
    for width in units:
        layers.append(keras.layers.Dense(width))
        layers += [norm()] if norm else []
        layers.append(keras.layers.Activation(activation))
        layers += [keras.layers.Dropout(dropout)] if dropout else []
    return keras.Sequential([*layers, keras.layers.Dense(outputs)])


def three_convolutions(
    norm: Callable | None, *, image_shape: tuple = (32, 32, 3), filters: tuple = (16, 32, 64),
    classes: int = 10, bias: bool = False,
) -> keras.Model:  # fmt: skip
    """Three 3×3 convolutions, each normalized, rectified and halved in size; then an average.

    Small enough to train while a page is built; 24,000 weights as it stands.

    Parameters
    ----------
    norm : callable or None
    image_shape : (H, W, C)
    filters : sequence of int
    classes : int
    bias : bool
        Whether the convolutions have one. Before a norm it does nothing; without a norm (None) it
        is always there.

    Returns
    -------
    keras.Model
        From images (N, H, W, C) to logits (N, classes).
    """
    check_norm(norm)
    layers = [keras.Input(image_shape)]
    for width in filters:
        use_bias = bias or norm is None
        layers.append(keras.layers.Conv2D(width, 3, padding="same", use_bias=use_bias))
        layers += [norm()] if norm else []
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    return keras.Sequential(layers)


def check_norm(norm: Callable | None, name: str = "norm") -> None:
    """Refuse what makes no layers: ValueError with the name of the argument."""
    # A layer is callable too, but it is one layer, and there are several places.
    if norm is not None and (not callable(norm) or isinstance(norm, keras.layers.Layer)):
        raise ValueError(f"{name} must be None or a callable that makes a layer; received {norm!r}")
