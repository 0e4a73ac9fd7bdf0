"""Record what the doctor says of models with one planted fault each, their twins, and healthy ones.

``python gallery/results/run_doctor.py``: every model of ``bnref_gallery.sick_models``: the sick
ones, their healthy twins, and ten healthy models, three of them published ones that are trained on
CIFAR-10 for 16 steps. For each the causes that `bnref.doctor.examine` names, in its order; the
first and the first three are to hold the planted one, and a healthy model is to have none. Stopped
and started again, it goes on where it was. About ten minutes on two cores.
"""

import functools

import keras

from bnref import devices, doctor
from bnref_gallery import records
from bnref_gallery.sick_models import FAULTS, HEALTHY, cause_of

COLUMNS = ("model", "kind", "planted", "found", "layers", "batches")


@functools.lru_cache(maxsize=1)
def both(fault):
    """The sick model and its twin, made once for both rows."""
    keras.utils.set_random_seed(0)
    return FAULTS[fault]()


def run(model, kind):
    """Examine one model; a row of what was named."""
    if kind == "healthy":
        keras.utils.set_random_seed(0)
        arguments = HEALTHY[model]()
    else:
        arguments = both(model)[0 if kind == "sick" else 1]
    network, data, *more = arguments
    options = {"batch_size": more[1]} if len(more) > 1 else {}
    report = doctor.examine(network, data, *more[:1], **options)
    names = " ".join(finding.cause for finding in report.findings) or "none"
    planted = cause_of(model) if kind == "sick" else "none"
    row = (model, kind, planted, names, len(report.norms), report.batches)
    return [dict(zip(COLUMNS, row, strict=True))]


if __name__ == "__main__":
    devices.configure(cpus=2)
    record = records.Record(
        records.path_of("doctor.csv"), key=("model", "kind"), columns=COLUMNS,
        provenance={"data": "drawn by bnref_gallery.sick_models; CIFAR-10 for the published ones"},
    )  # fmt: skip
    runs = [{"model": fault, "kind": kind} for fault in FAULTS for kind in ("sick", "twin")]
    runs += [{"model": name, "kind": "healthy"} for name in HEALTHY]
    for each in record.progress(runs):
        record.add(run(**each))
