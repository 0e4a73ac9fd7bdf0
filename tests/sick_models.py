"""Models with one planted fault each, and their healthy twins, for the tests of the doctor.

Each function trains or builds both in a second or two and returns ``(sick, healthy)``, each a tuple
of the arguments of `bnref.doctor.examine`.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import bnref

FEATURES, CLASSES = 8, 4
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classes(number=1024, seed=0, scale=1.0):
    """Four overlapping classes of vectors whose features differ in scale and offset."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, number)
    centres = np.random.default_rng(9).normal(size=(CLASSES, FEATURES)) * 1.5
    x = (centres[y] + random.normal(size=(number, FEATURES))) * np.linspace(0.5, 3, FEATURES) + 1
    return (x * scale).astype("float32"), y


def images(number=512, seed=0):
    """Ten by eight images, of four classes that differ in where they are bright."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, number)
    x = random.normal(size=(number, 10, 8, 3)) * [1, 2, 0.5] + [0, 1, -1]
    for row in range(CLASSES):
        x[y == row, 2 * row : 2 * row + 3] += 1
    return x.astype("float32"), y


def compiled(model, rate=3e-3, **options):
    model.compile(keras.optimizers.Adam(rate, **options), LOSS)
    return model


def dense(norm=layers.BatchNormalization, before=(), classes=CLASSES, **options):
    """Two hidden layers with norms, functional."""
    options = {"momentum": 0.9, **options}
    x = inputs = keras.Input((FEATURES,))
    for units in (32, 16):
        x = layers.Dense(units, use_bias=False)(x)
        for each in before:
            x = each()(x)
        x = layers.ReLU()(norm(**options)(x))
    return compiled(keras.Model(inputs, layers.Dense(classes)(x)))


def fitted(model, x, y, epochs=3, batch_size=32, **options):
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, **options)
    return model


def trained(**options):
    keras.utils.set_random_seed(0)
    return fitted(dense(**options), *classes())


def never_updated():
    model = trained()
    wrong = keras.models.clone_model(model)
    wrong.set_weights(model.get_weights())
    for norm in bnref.norms.find(wrong):
        norm.assign(np.zeros(norm.channels), np.ones(norm.channels))
    return (wrong, classes()), (model, classes())


class Deaf(keras.Model):
    """Does not pass ``training`` on."""

    def __init__(self, told):
        super().__init__()
        self.dense, self.norm = layers.Dense(16), layers.BatchNormalization(momentum=0.9)
        self.head, self.told = layers.Dense(CLASSES), told

    def call(self, x, training=None):
        x = self.norm(self.dense(x), training=training if self.told else False)
        return self.head(tf.nn.relu(x))


def training_never_passed():
    x, y = classes()
    sick, healthy = (fitted(compiled(Deaf(told)), x, y) for told in (False, True))
    return (sick, (x, y)), (healthy, (x, y))


def impossible_population():
    model = trained()
    wrong = keras.models.clone_model(model)
    wrong.set_weights(model.get_weights())
    variance = bnref.norms.find(wrong)[0].variance
    variance.assign(np.where(np.arange(32) == 3, -0.2, variance))
    return (wrong, classes()), (model, classes())


def few_steps():
    x, y = classes(256)
    sick = fitted(dense(momentum=0.99), x, y, epochs=2)
    bnref.population.recompute(healthy := fitted(dense(momentum=0.99), x, y, epochs=2), [x])
    return (sick, (x, y)), (healthy, (x, y))


def batches_not_shuffled():
    x, y = classes()
    order = np.argsort(y, kind="stable")
    data = x[order], y[order]
    sick = fitted(dense(), *data, shuffle=False)
    return (sick, data), (trained(), (x, y))


def one_kind_a_batch():
    x, y = classes()
    x[512:] = 4 - 3 * x[512:]
    turns = np.concatenate([np.r_[i : i + 32, 512 + i : 512 + i + 32] for i in range(0, 512, 32)])
    mixed = np.random.default_rng(1).permutation(1024)
    sick = fitted(dense(), x[turns], y[turns], shuffle=False, epochs=4)
    healthy = fitted(dense(), x[mixed], y[mixed], epochs=4)
    return (sick, (x[turns], y[turns])), (healthy, (x[mixed], y[mixed]))


def one_example_rules():
    x, y = classes()
    wrong = x.copy()
    wrong[5::32] *= 200
    return (fitted(dense(), wrong, y), (wrong, y)), (trained(), (x, y))


class Branches(keras.Model):
    """One network for two kinds of input; with a norm for each, or one for both."""

    def __init__(self, shared):
        super().__init__()
        self.dense = layers.Dense(16)
        self.norms = [layers.BatchNormalization(momentum=0.9) for _ in range(1 if shared else 2)]
        self.head = layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        first, second = inputs
        a = self.norms[0](self.dense(first), training=training)
        b = self.norms[-1](self.dense(second), training=training)
        return self.head(tf.nn.relu(a) + tf.nn.relu(b))


def shared_by_branches():
    x, y = classes()
    data = [x, 6 - 3 * x], y
    sick, healthy = (fitted(compiled(Branches(shared)), *data) for shared in (True, False))
    batches = tf.data.Dataset.from_tensor_slices(((x, 6 - 3 * x), y)).batch(32)
    return (sick, batches), (healthy, batches)


def dropout_before():
    data = classes()
    sick = fitted(dense(before=[lambda: layers.Dropout(0.5)]), *data)
    return (sick, data), (trained(), data)


def momentum_of_another_framework():
    return (trained(momentum=0.1), classes()), (trained(momentum=0.9), classes())


class Deafened(Deaf):
    """Says training=True to its norm, whatever it is told."""

    def call(self, x, training=None):
        x = self.norm(self.dense(x), training=self.told or training)
        return self.head(tf.nn.relu(x))


def training_at_inference():
    x, y = classes()
    sick, healthy = (fitted(compiled(Deafened(told)), x, y) for told in (True, False))
    return (sick, (x, y)), (healthy, (x, y))


def always_the_batchs():
    data = classes()
    return (fitted(dense(bnref.UntrackedBatchNorm), *data), data), (trained(), data)


def convolutional(
    first=(), axis=-1, kernel_options=None, norm=layers.BatchNormalization, shape=(10, 8, 3)
):
    inputs = x = keras.Input(shape)
    for layer in first:
        x = layer(x)
    x = layers.Conv2D(8, 3, use_bias=False, **(kernel_options or {}))(x)
    x = layers.ReLU()(norm(axis=axis, momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D(**(kernel_options or {}))(x)
    return compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)), 1e-2)


def untold_is_training():
    data = images()
    sick, healthy = (
        fitted(convolutional(first), *data) for first in ([layers.Resizing(10, 8)], [])
    )
    return (sick, data), (healthy, data)


def wrong_axis():
    data = images()
    sick, healthy = (fitted(convolutional(axis=axis), *data) for axis in (1, -1))
    return (sick, data), (healthy, data)


def one_value_a_channel():
    x, y = classes(64)
    model = trained()
    return (model, (x, y), None, 1), (model, (x, y), None, 32)


def small_batches():
    x, y = classes()
    sick = fitted(dense(momentum=0.99), x, y, batch_size=4, epochs=2)
    return (sick, (x, y), None, 4), (trained(), (x, y), None, 32)


def last_batch_of_one():
    x, y = classes(1025)
    model = trained()
    return (model, (x, y)), (model, (x[:1024], y[:1024]))


def padding_counted():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 20, 512)
    y = random.integers(0, CLASSES, 512)
    x = random.normal(2, 1, size=(512, 20, 5)) + y[:, None, None]
    x = np.where(np.arange(20)[:, None] < lengths[:, None, None], x, 0).astype("float32")
    models = []
    for norm in (layers.BatchNormalization, bnref.MaskedBatchNorm):
        inputs = keras.Input((20, 5))
        z = layers.Masking()(inputs) if norm is bnref.MaskedBatchNorm else inputs
        z = norm(momentum=0.9)(z)
        z = layers.GlobalAveragePooling1D()(z)
        models.append(fitted(compiled(keras.Model(inputs, layers.Dense(CLASSES)(z))), x, y))
    return (models[0], (x, y)), (models[1], (x, y))


def norm_on_logits():
    x, y = classes()
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    sick = compiled(
        keras.Model(inputs, layers.BatchNormalization(momentum=0.9)(layers.Dense(CLASSES)(hidden)))
    )
    return (fitted(sick, x, y), (x, y)), (trained(), (x, y))


def fine_tuned(freeze):
    """A base that was trained on other data, called with training=False and then unfrozen."""
    x, y = classes()
    base = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(16), layers.BatchNormalization()]
    )
    bnref.population.recompute(base, [x])
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, layers.Dense(CLASSES)(base(inputs, training=False)))
    for norm in bnref.norms.find(base):
        norm.layer.trainable = not freeze
    return fitted(compiled(model), x, y, epochs=1)


def training_false_overridden():
    return (fine_tuned(False), classes()), (fine_tuned(True), classes())


def frozen_after_compile():
    sick, healthy = trained(), trained()
    for model in (sick, healthy):
        for norm in bnref.norms.find(model):
            norm.layer.trainable = False
    compiled(healthy)
    return (sick, classes()), (healthy, classes())


def half_precision_population():
    x, y = classes()
    healthy = trained()
    keras.config.set_dtype_policy("float16")
    try:
        sick = dense()
    finally:
        keras.config.set_dtype_policy("float32")
    sick.set_weights(healthy.get_weights())
    return (sick, (x, y)), (healthy, (x, y))


def weights_averaged_without_statistics():
    x, y = classes()
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = dense(momentum=0.9)
        # The average of weights so far apart that the statistics of the last do not fit it.
        compiled(model, rate=0.1, use_ema=True, ema_momentum=0.99)
        models.append(fitted(model, x, y, epochs=2))
    bnref.population.recompute(models[1], np.split(x, 8))
    return (models[0], (x, y)), (models[1], (x, y))


def accumulated_gradients():
    x, y = classes()
    models = []
    for steps in (8, None):
        models.append(compiled(dense(), gradient_accumulation_steps=steps))
    models = [fitted(model, x, y, batch_size=8, epochs=1) for model in models]
    return (models[0], (x, y), None, 8), (models[1], (x, y), None, 8)


def epsilon_of_another_framework():
    x, y = classes(scale=3e-3)
    x = x - x.mean(0)
    healthy = fitted(dense(epsilon=1e-5), x, y)
    sick = keras.models.clone_model(healthy)
    sick.set_weights(healthy.get_weights())
    for norm in bnref.norms.find(sick):
        norm.layer.epsilon = 1e-3
    return (sick, (x, y)), (healthy, (x, y))


def stale_population():
    """A model whose inputs were scaled anew after it was trained, as by another preprocessing."""
    x, y = classes()
    model = trained()
    return (model, (2 * x + 3, y)), (model, (x, y))


def validation_of_another_kind():
    model, data = trained(), classes()
    x, y = classes(seed=5)
    return (model, data, (3 * x + 4, y)), (model, data, (x, y))


def batch_gives_the_answer():
    """Large and small of each batch, whose scale is its own: only the batch's deviation tells."""
    random = np.random.default_rng(0)
    y = np.tile([0, 1], (64, 8))
    size = np.where(y == 1, 1.3, 0.7) * np.exp(random.normal(size=(64, 1)))
    x = (size * random.choice([-1, 1], size=size.shape)).reshape(-1, 1).astype("float32")
    x, y = np.repeat(x, FEATURES, axis=1), y.ravel()
    inputs = keras.Input((FEATURES,))
    z = layers.Dense(32, activation="relu")(layers.BatchNormalization(momentum=0.9)(inputs))
    model = compiled(keras.Model(inputs, layers.Dense(2)(z)), 1e-2)
    fitted(model, x, y, batch_size=16, epochs=15, shuffle=False)
    return (model, (x, y), None, 16), (trained(), classes())


def large_mean():
    x, y = classes()
    far = (x + 3e4).astype("float32")
    inputs = keras.Input((FEATURES,))
    models = []
    for data in (far, x):
        z = layers.BatchNormalization(momentum=0.5)(inputs)
        model = compiled(keras.Model(inputs, layers.Dense(CLASSES)(z)))
        models.append(fitted(model, data, y))
    return (models[0], (far, y)), (models[1], (x, y))


def dead_channels():
    healthy = trained()
    sick = keras.models.clone_model(healthy)
    sick.set_weights(healthy.get_weights())
    kernel = sick.layers[1].kernel
    kernel.assign(np.where(np.arange(32) % 2, kernel, 0))
    bnref.population.recompute(sick, [classes()[0]])
    return (sick, classes()), (healthy, classes())


def gamma_vanishes():
    sick, healthy = trained(), trained()
    for model in (sick, healthy):
        model.optimizer.weight_decay = 0.1
    norm = bnref.norms.find(sick)[1]
    norm.gamma.assign(norm.gamma * 1e-3)
    return (sick, classes()), (healthy, classes())


def bias_without_effect():
    models = []
    x, y = classes()
    for size in (300.0, 0.0):
        inputs = keras.Input((FEATURES,))
        layer = layers.Dense(16)
        z = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(inputs)))
        model = compiled(keras.Model(inputs, layers.Dense(CLASSES)(z)))
        layer.bias.assign(np.full(16, size))
        bnref.population.recompute(model, [x])
        models.append(fitted(model, x, y))
    return (models[0], (x, y)), (models[1], (x, y))


def trembling_average():
    x, y = classes()
    sick = fitted(dense(momentum=0.5), x, y, batch_size=8, epochs=2)
    return (sick, (x, y), None, 8), (trained(), (x, y), None, 32)


class Moving(keras.layers.Layer):
    """A norm that moves its population whenever it is called, as a careless one of one's own."""

    def __init__(self, careless):
        super().__init__()
        self.norm, self.careless = layers.BatchNormalization(momentum=0.9), careless

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        y = self.norm(x, training=training)
        if self.careless:
            self.norm.moving_mean.assign(0.9 * self.norm.moving_mean + 0.1 * tf.reduce_mean(x, 0))
        return y


def moves_at_inference():
    x, y = classes()
    models = []
    for careless in (True, False):
        inputs = keras.Input((FEATURES,))
        z = layers.ReLU()(Moving(careless)(layers.Dense(16)(inputs)))
        models.append(fitted(compiled(keras.Model(inputs, layers.Dense(CLASSES)(z))), x, y))
    return (models[0], (x, y)), (models[1], (x, y))


def variance_overflows():
    x, y = classes()
    healthy = trained()
    sick = keras.models.clone_model(healthy)
    sick.set_weights(healthy.get_weights())
    sick.layers[1].kernel.assign(sick.layers[1].kernel * 1e30)
    return (sick, (x, y)), (healthy, (x, y))


def strategy():
    from helpers import strategy_of

    return strategy_of(2)


def replicas_differ():
    """The second replica's data are of another kind, and each remembers its own."""
    x, y = classes()
    x = x.reshape(-1, 16, FEATURES)
    x[1::2] = 3 - 2 * x[1::2]
    x = x.reshape(-1, FEATURES)
    models = []
    for norm in (layers.BatchNormalization, bnref.SyncBatchNorm):
        with strategy().scope():
            models.append(dense(norm))
        fitted(models[-1], x, y, shuffle=False, epochs=1)
    shuffled = np.random.default_rng(0).permutation(len(x))
    data = x[shuffled], y[shuffled]
    return (models[0], data), (models[1], data)


def empty_replica():
    x, y = classes(1025)
    with strategy().scope():
        model = dense(bnref.SyncBatchNorm)
    fitted(model, x[:1024], y[:1024])
    return (model, (x, y)), (model, (x[:1024], y[:1024]))


def mask_unsynchronizes():
    random = np.random.default_rng(0)
    y = random.integers(0, CLASSES, 512)
    x = (random.normal(size=(512, 6, 5)) + y[:, None, None]).astype("float32")
    x[:, 4:] = 0
    models = []
    for norm in (layers.BatchNormalization(momentum=0.9, synchronized=True), bnref.SyncBatchNorm()):
        with strategy().scope():
            inputs = keras.Input((6, 5))
            z = norm(layers.Masking()(inputs))
            z = layers.GlobalAveragePooling1D()(z)
            models.append(compiled(keras.Model(inputs, layers.Dense(CLASSES)(z))))
        bnref.population.recompute(models[-1], np.split(x, 16))
    return (models[0], (x, y)), (models[1], (x, y))
