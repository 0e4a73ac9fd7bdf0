"""Record what TensorFlow's compiled programs do on JAX's runtime: times, and curves of training.

In two steps, on one machine or on two::

    python gallery/results/run_xla.py write FOLDER   # with TensorFlow: the programs, some MB
    python gallery/results/run_xla.py run FOLDER     # with JAX: runs them, and writes the record

The forward and backward pass of layers, and whole training steps, are compiled by TensorFlow for
XLA and written as StableHLO; JAX hands them to the XLA of its device. Every program is compared
with what TensorFlow returned. Then they are timed in turns: on a GPU with arrays of
(256, 56, 56, 64) and batches of 256 images, on a CPU with a sixteenth of that. Last, five epochs of
CIFAR-10, of which a CPU is given 2,560 images. Some minutes on two cores. ``pip install jax``;
bnref is not needed for ``run``, ``PYTHONPATH=gallery`` finds the records.
"""

import argparse

from bnref_gallery import datasets, records

COLUMNS = ("program", "what", "value")


def run(folder):
    """Compare, time and train by each program, and record it."""
    import jax
    from xla_programs import executed

    found, version = executed.programs(folder)
    device = jax.devices()[0]
    size = "cpu" if device.platform == "cpu" else "gpu"
    record = records.Record(
        records.path_of(f"xla_on_jax_{size}.csv"),
        key=("program",),
        columns=COLUMNS,
        provenance={
            "tensorflow": f"{version}, which wrote the programs",
            **dict.fromkeys(("keras", "bnref"), "not used to run them"),
            "jax": jax.__version__,
            "xla device": device.device_kind,
        },
    )
    few = size == "cpu"
    data = datasets.load("cifar10").take(train=2560 if few else 50000, test=1024 if few else 10000)
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    seconds = {}
    for kind in ("layer", "step", "logits"):
        of_kind = {name: each for name, each in found.items() if name.startswith(kind)}
        seconds |= executed.seconds(of_kind, size, 20 if few else 50)
    for each in record.progress([{"program": name} for name in found]):
        name = each["program"]
        program = found[name]
        rows = [("error", program.error()), ("characters", program.characters(size))]
        rows.append(("seconds", seconds[name]))
        if name.startswith("layer"):
            *_, dy = program.inputs(size)
            rows.append(("least bytes", 4 * dy.nbytes))  # x and dy are read, y and dx written
        if name.startswith("step"):
            logits = found[name.replace("step", "logits")]
            curve = executed.curve(program, logits, size, train, test, epochs=5, seed=0)
            for epoch, (loss, accuracy) in enumerate(curve, start=1):
                rows += [(f"loss, epoch {epoch}", loss), (f"accuracy, epoch {epoch}", accuracy)]
        record.add([{**each, "what": what, "value": value} for what, value in rows])


def write(folder):
    from xla_programs import written

    written.write(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("action", choices=["write", "run"])
    parser.add_argument("folder")
    given = parser.parse_args()
    {"write": write, "run": run}[given.action](given.folder)
