"""
How often the doctor is right, and how often it accuses a healthy model
=======================================================================

``bnref.doctor.examine`` was asked about models with one planted fault each, about their healthy
twins, and about ten other healthy models, three of them published ones. The planted cause comes
**first in more than 9 of 10**, and **no healthy model** is accused. Two things to know: the checks
were written with these models at hand, so that others will fare worse; and the faults are planted
one at a time in small models, where a project of your own may have two, and one that no check
knows.
"""

import matplotlib.pyplot as plt

from bnref_gallery import records

# %%
# Check
# -----
# ``print(bnref.doctor.examine(model, (x_train, y_train)))``: see
# :doc:`/gallery/examine/plot_examine_your_model`. One cause alone, which is faster:
# ``bnref.doctor.examine(model, data, only=["dropout_before"])``.
#
# Why
# ---
# A check that fires on every model is worth nothing, and one that needs a magic number fires on
# some. Each check compares what was measured with what sampling alone would give: regroupings of
# the same examples, standard errors of the means of batches, the same batches with and without
# dropout.
#
# Experiment
# ----------
# The models stand in ``bnref_gallery.sick_models``; the sweep ``gallery/results/run_doctor.py``
# trains each, examines it, and records what was named.

provenance, columns = records.read(records.path_of("doctor.csv"))
print(records.provenance_line(provenance))
rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
sick = [row for row in rows if row["kind"] == "sick"]
healthy = [row for row in rows if row["kind"] != "sick"]

named_first, named_among_three = [], []
for row in sick:
    found = row["found"].split()
    named_first.append(found[0] == row["planted"])
    named_among_three.append(row["planted"] in found[:3])
    print(f"{row['planted']:38} {'first' if named_first[-1] else 'NOT first':10} {row['found']}")

accused = [row for row in healthy if row["found"] != "none"]
for row in accused:
    print(f"accused though healthy: {row['model']}, of {row['found']}")

# %%
# So often is the planted cause named, and so often a healthy model accused:

shares = {
    "named first": sum(named_first) / len(sick),
    "named among three": sum(named_among_three) / len(sick),
    "healthy, accused": len(accused) / len(healthy),
}
fig, ax = plt.subplots(figsize=(6, 2.2), layout="constrained")
bars = ax.barh(list(shares), list(shares.values()), color=["C0", "C0", "C3"])
counts = [f"{sum(named_first)} of {len(sick)}", f"{sum(named_among_three)} of {len(sick)}"]
ax.bar_label(bars, labels=[*counts, f"{len(accused)} of {len(healthy)}"], padding=4)
ax.set(xlim=(0, 1.2), xticks=[0, 0.5, 1], xlabel="share of the models")
ax.invert_yaxis()
plt.show()

# %%
# Proof
# -----

assert len(sick) >= 25, "at least 25 causes are decided"
assert len(healthy) == len(sick) + 10, "a twin each, and ten more"
assert shares["named first"] >= 0.9, "the planted cause comes first"
assert not accused, "no healthy model is accused"
