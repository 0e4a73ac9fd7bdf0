"""What entries of the finder say of Keras's files and layers, where no page measures it."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bnref import norms

X = np.random.default_rng(0).normal(2, 3, (16, 4)).astype("float32")


def base_and_head(library, *, frozen):
    """A nested base with two norms, frozen or not, and a head."""
    layers = [library.Input((4,))]
    for _ in range(2):
        layers += [library.layers.Dense(4), library.layers.BatchNormalization()]
    base = library.Sequential(layers, name="base")
    model = library.Sequential([library.Input((4,)), base, library.layers.Dense(2)])
    base.trainable = not frozen
    return model


def test_a_file_of_the_old_name_loads_by_a_custom_object(tmp_path):
    path, layers = tmp_path / "old.h5", (tf_keras.Input((4,)), tf_keras.layers.BatchNormalization())
    with pytest.warns(UserWarning, match="HDF5"):
        tf_keras.Sequential(layers).save(path)
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace('"BatchNormalization"', '"BatchNormalizationV1"')
    with pytest.raises(ValueError, match="Unknown layer: 'BatchNormalizationV1'"):
        keras.models.load_model(path, compile=False)
    names = {"BatchNormalizationV1": keras.layers.BatchNormalization}
    loaded = keras.models.load_model(path, compile=False, custom_objects=names)
    assert len(norms.find(loaded)) == 1


def test_keras_3_takes_one_axis_and_tf_keras_writes_a_list():
    layer = tf_keras.layers.BatchNormalization()
    layer.build((None, 5, 5, 3))
    assert list(layer.get_config()["axis"]) == [3]
    with pytest.raises(TypeError, match=r"int\(\) argument must be .* not 'list'"):
        keras.layers.BatchNormalization(axis=[3])


def test_an_h5_file_of_tf_keras_loads_only_with_the_same_layers_frozen(tmp_path):
    path = str(tmp_path / "weights.h5")
    saved = base_and_head(tf_keras, frozen=True)
    saved.save_weights(path)
    loaded = base_and_head(tf_keras, frozen=False)
    with pytest.raises(ValueError, match="(?i)shape"):
        loaded.load_weights(path)
    loaded.get_layer("base").trainable = False
    loaded.load_weights(path)
    np.testing.assert_array_equal(loaded(X), saved(X))


def test_a_file_of_weights_does_not_say_what_was_frozen_and_a_models_file_does(tmp_path):
    saved = base_and_head(keras, frozen=True)
    saved.save(tmp_path / "model.keras")
    saved.save_weights(tmp_path / "model.weights.h5")
    other = base_and_head(keras, frozen=False)
    other.load_weights(tmp_path / "model.weights.h5")
    whole = keras.models.load_model(tmp_path / "model.keras")
    assert [norms.find(each)[0].trainable for each in (saved, other, whole)] == [False, True, False]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_base_called_in_training_mode_moves_unless_it_is_frozen_whatever_is_trained(frozen):
    model = base_and_head(keras, frozen=frozen)
    base, head = model.layers
    optimizer = keras.optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(head(base(X, training=True)) ** 2)
    variables = head.trainable_variables
    optimizer.apply(tape.gradient(loss, [each.value for each in variables]), variables)
    assert np.any(norms.find(model)[0].mean) != frozen
