"""Write the skeleton of a gallery page: ``make page NAME=pitfalls/what_is_found``.

It runs as it is, so that each part can be replaced by the page's own and seen to work.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"(?P<section>[a-z_]+)/(?:plot_)?(?P<finding>[a-z][a-z0-9_]*)")
SKELETON = '''"""
{title}
{line}

The answer in one paragraph, for somebody who has read no other page, with what was measured: the
moving mean ends at :claim:`0.1 <wrong>` of the true mean where it should be :claim:`1.0 <right>`.

.. symptom:: statistics never change
   :cause: what is behind it on this page
   :check: what to look at, by hand
   :likelihood: sometimes
   :question: 2
"""

# %%
# Check
# -----
# What the check looks at, and what it is silent on.

import matplotlib.pyplot as plt
import numpy as np

from bnref import BatchNorm
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# What to do, in a sentence.
#
# Wrong
# ^^^^^


def wrong_layer():
    return BatchNorm(momentum=0.999)


# %%
# Right
# ^^^^^


def right_layer():
    return BatchNorm(momentum=0.9)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): the formula, and the section of the paper. Threads
# where people met it.
#
# Experiment
# ----------
# What is done, with which data.

STEPS = 100


def shares(make_layer):
    """The moving mean over the true one, a row a seed."""
    rows = []
    for seed in range(3):
        random, layer, row = np.random.default_rng(seed), make_layer(), []
        for _ in range(STEPS):
            layer(random.normal(5, 1, (64, 1)).astype("float32"), training=True)
            row.append(layer.moving_mean.numpy()[0] / 5)
        rows.append(row)
    return np.array(rows)


runs = {{"wrong": shares(wrong_layer), "right": shares(right_layer)}}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for name, rows in runs.items():
    ax.plot(rows.mean(0), label=name)
ax.set(title="What is drawn", xlabel="step", ylabel="moving mean over true mean")
ax.legend()
plt.show()

# %%
# Proof
# -----
# What the numbers above are.

claim("wrong", runs["wrong"][:, -1], "moving mean over the true mean, wrong", below=0.2)
claim("right", runs["right"][:, -1], "moving mean over the true mean, right", above=0.9)
'''


def main(name):
    """Write the page, unless it is there."""
    found = NAME.fullmatch(name)
    sections = sorted(path.parent.name for path in (ROOT / "gallery").glob("*/GALLERY_HEADER.rst"))
    if not found or found["section"] not in sections:
        sys.exit(
            "NAME must be a section and a finding, as in pitfalls/the_mean_is_late, the section "
            f"one of {', '.join(sections)}; received {name!r}"
        )
    path = ROOT / "gallery" / found["section"] / f"plot_{found['finding']}.py"
    if path.exists():
        sys.exit(f"{path.relative_to(ROOT)} is there already")
    path.write_text(text(found["finding"]), "utf-8")
    print(f"{path.relative_to(ROOT)} is written; tests/search_phrases.toml needs a phrase for it")


def text(finding):
    """The skeleton of a page on this finding."""
    title = finding.replace("_", " ").capitalize()
    return SKELETON.format(title=title, line="=" * len(title))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
