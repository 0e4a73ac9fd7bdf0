"""
How often the doctor is right, and how often it accuses a healthy model
=======================================================================

``bnref.doctor.examine`` was asked about models with one planted fault each and the wrong models of
this site's pages; about their repaired twins; and about ten other healthy models, three of them
published ones. The cause, or one that explains it, comes first in :claim:`95 % <first>` of them, by
the very name that the page has for it in :claim:`89 % <by_name>`, and no healthy model is accused.
On the pages alone it is first less often: some of their models have a second fault, such as few
steps beside small batches, and that one is named before. Two things to know: the checks were
written with these models at hand, so that others will fare worse; and the faults are planted one at
a time in small models, where a project of your own may have two, and one that no check knows.
"""

import matplotlib.pyplot as plt

from bnref import doctor
from bnref_gallery import records
from bnref_gallery.claims import claim

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
# The models of ``bnref_gallery.sick_models`` are trained, examined, and what was named is recorded
# by ``gallery/results/run_doctor.py``. ``run_doctor_on_pages.py`` executes the pages that end with
# a check of their own models, and examines these for all causes. A model that a page asks about
# twice counts once. Some causes explain others, which are not named then: where nobody told the
# model that it trains, no average was ever updated.


def recorded(name):
    """The rows of a recorded file, as dicts, and where they come from."""
    provenance, columns = records.read(records.path_of(name))
    print(records.provenance_line(provenance))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


planted = recorded("doctor.csv")
shown = recorded("doctor_on_pages.csv")
sick = {"planted": [], "on pages": []}  # of each: the cause, and the names in their order
for row in planted:
    if row["kind"] == "sick":
        sick["planted"].append((row["planted"], row["found"].split()))
counted_once = set()
for row in shown:
    model = tuple(row[name] for name in ("page", "asked", "found", "layers", "batches"))
    if row["kind"] == "sick" and model not in counted_once:
        counted_once.add(model)
        sick["on pages"].append((row["asked"], row["found"].split()))


def explains(name, cause):
    """Whether the doctor leaves a cause out where it has named this one."""
    return name in doctor.CHECKS[cause].unless


for cause, found in sick["planted"] + sick["on pages"]:
    if found[0] == cause:
        place = "first"
    else:
        place = "explained" if explains(found[0], cause) else "NOT first"
    print(f"{cause:36} {place:10} {', '.join(found)}")

# %%
# The repaired twins and the other healthy models must not be accused of anything. The right model
# of a page is right in that page's cause, and may be wrong in others, which the page is not about:
# a batch that is small on purpose, or a momentum that makes a point. What else was named of them:

healthy = [row["found"] for row in planted if row["kind"] != "sick"]
accused = [found for found in healthy if found != "none"]
right = [row for row in shown if row["kind"] == "twin"]
accused_of_its_cause = [row for row in right if row["asked"] in row["found"].split()]
for row in right:
    if row["found"] != "none":
        print(f"{row['page']}: {row['found']}")

# %%
# So often is the cause named, and so often a healthy model accused:


def counted(models, most):
    """In how many of the models the cause is among the first so many, or one that explains it."""
    number = 0
    for cause, found in models:
        names = found[:most]
        number += any(name == cause or explains(name, cause) for name in names)
    return number


bars = {}
for name, models in sick.items():
    bars[f"{name}: named first"] = counted(models, most=1), len(models)
    bars[f"{name}: among three"] = counted(models, most=3), len(models)
bars["healthy, accused of anything"] = len(accused), len(healthy)
bars["right models of pages, of its cause"] = len(accused_of_its_cause), len(right)

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
shares = [number / of for number, of in bars.values()]
drawn = ax.barh(list(bars), shares, color=["C0"] * 4 + ["C3"] * 2)
ax.bar_label(drawn, labels=[f"{number} of {of}" for number, of in bars.values()], padding=4)
ax.set(
    title="What the doctor names", xlim=(0, 1.25), xticks=[0, 0.5, 1], xlabel="share of the models"
)
ax.invert_yaxis()
ax.set_ylabel("models, and which findings count")
plt.show()

# %%
# Proof
# -----
# Of the recorded files.

assert len(sick["planted"]) >= 25, "at least 25 causes are decided"
assert len(healthy) == len(sick["planted"]) + 10, "a twin each, and ten more"
every = sick["planted"] + sick["on pages"]
claim("first", counted(every, most=1) / len(every), "share named first", above=0.899)
by_name = sum(found[0] == cause for cause, found in every)
claim("by_name", by_name / len(every), "share named first, by the page's name", above=0.85)
claim("among_three", counted(every, most=3) / len(every), "share among three", above=0.949)
assert not accused, "no healthy model is accused"
assert not accused_of_its_cause, "no right model of a page is accused of the page's cause"
