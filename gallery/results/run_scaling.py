"""Record what the training loop costs: against Keras ``fit``, by replicas, and at its start.

``python gallery/results/run_scaling.py``: each run is a process of its own, ten minutes together
on two cores that are otherwise idle. Stopped and started again, it goes on where it was.

- ``loop`` and ``fit``: milliseconds of a step with the same model, Keras's layer, the same strategy
  of 1 or 2 devices, and the same ``tf.data`` pipeline; compute-bound (the pipeline hands out what
  it has) and input-bound (its map takes longer than the step). The two take turns, 40 steps each,
  with all that a call of ``fit`` or ``train`` does before and after them.
- ``norms``: milliseconds of a step of the loop on 1, 2, 4 and 8 logical devices, for a network with
  0, 4 and 8 synchronized norms: what each norm adds is what its two collectives cost.
- ``start``: seconds from the start of the process until the first step is done, loop and fit.
"""

import json
import subprocess
import sys
import time

BATCH, STEPS, ROUNDS = 128, 40, 5
KINDS = [{"what": what, "devices": n} for what in ("compute", "input") for n in (1, 2)]
KINDS += [{"what": f"norms {count}", "devices": n} for count in (0, 4, 8) for n in (1, 2, 4, 8)]
KINDS += [{"what": f"start {arm}", "devices": n} for arm in ("loop", "fit") for n in (1, 2)]


def images():
    import numpy as np

    random = np.random.default_rng(0)
    return random.random((1280, 16, 16, 3), "float32"), random.integers(0, 10, 1280)


def convolutions(strategy):
    import keras

    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((16, 16, 3))]
        for filters in (16, 32):
            layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
            layers.append(keras.layers.BatchNormalization())
            layers += [keras.layers.ReLU(), keras.layers.MaxPool2D()]
        model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
    return model


def pipeline(bound):
    """Batches without end; input-bound, each takes a sort of 300,000 numbers to make."""
    import tensorflow as tf

    def slow(x, y):
        waste = tf.sort(tf.random.uniform((300_000,)))
        return x + 0 * waste[0], y

    batches = tf.data.Dataset.from_tensor_slices(images()).repeat().batch(BATCH)
    return (batches.map(slow) if bound == "input" else batches).prefetch(2)


def of_fit_and_loop(bound, devices):
    """Milliseconds of a step, a mean a round, of both."""
    from bnref import training

    strategy = training.strategy(devices)
    fitted, looped = convolutions(strategy), convolutions(strategy)
    run, found = training.Run(looped, looped.optimizer), {"fit": [], "loop": []}
    for number in range(ROUNDS + 1):
        begun = time.perf_counter()
        fitted.fit(pipeline(bound), steps_per_epoch=STEPS, verbose=0)
        between = time.perf_counter()
        run.train(pipeline(bound), steps=STEPS, every=STEPS)
        ended = time.perf_counter()
        if number:  # after a first round, in which all is traced
            found["fit"].append(1000 * (between - begun) / STEPS)
            found["loop"].append(1000 * (ended - between) / STEPS)
    return found


def of_norms(count, devices):
    """Milliseconds of a step of dense layers, so many of them with a synchronized norm."""
    import keras
    import numpy as np

    import bnref
    from bnref import training

    strategy = training.strategy(devices)
    with strategy.scope():
        layers = [keras.Input((64,))]
        for number in range(8):
            layers.append(keras.layers.Dense(64))
            layers += [bnref.SyncBatchNorm()] if number < count else []
            layers.append(keras.layers.ReLU())
        model = keras.Sequential([*layers, keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(0.01)
    run, random = training.Run(model, optimizer), np.random.default_rng(0)
    x, y = random.random((BATCH, 64), "float32"), random.integers(0, 10, BATCH)
    found = []
    for number in range(ROUNDS + 1):
        ticks = [time.perf_counter()]
        for _ in range(2 * STEPS):
            run.step(x, y)
            ticks.append(time.perf_counter())
        if number:
            found.append(1000 * float(np.median(np.diff(ticks))))
    return {"step": found}


def of_start(arm, devices):
    """Take one step; the time is taken from outside."""
    from bnref import training

    model = convolutions(training.strategy(devices))
    x, y = images()
    if arm == "fit":
        model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
    else:
        training.Run(model, model.optimizer).step(x[:BATCH], y[:BATCH])
    return {}


def measured(what, devices):
    kind, _, which = what.partition(" ")
    if kind == "norms":
        return of_norms(int(which), devices)
    return of_start(which, devices) if kind == "start" else of_fit_and_loop(kind, devices)


def in_a_process(what, devices):
    """What a process of its own has measured, and the seconds that it took."""
    begun = time.perf_counter()
    command = [sys.executable, __file__, what, str(devices)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - begun


def main():
    """Record what is not yet in the file."""
    from bnref_gallery import records

    record = records.Record(
        records.path_of("scaling.csv"), key=("what", "devices"),
        columns=("what", "devices", "arm", "round", "value"),
        provenance={"data": f"random, batches of {BATCH}", "unit": "milliseconds; start: seconds"},
    )  # fmt: skip
    for one in record.progress(KINDS):
        if one["what"].startswith("start"):
            found = {"start": [in_a_process(**one)[1] for _ in range(ROUNDS)]}
        else:
            found = in_a_process(**one)[0]
        rows = []
        for arm, values in found.items():
            for number, value in enumerate(values):
                rows.append({**one, "arm": arm, "round": number, "value": round(value, 4)})
        record.add(rows)


if __name__ == "__main__":
    if sys.argv[1:]:  # one measurement, in a process of its own
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
