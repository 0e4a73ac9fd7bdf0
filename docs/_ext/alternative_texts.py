"""What a figure shows, in words and numbers, for those who do not see it: read off its axes.

`scraper` takes the place of sphinx-gallery's own. It also marks figures that hold pictures: these
keep their colours in the dark, where `lighten.py` recolours the others. And it draws the card of a
page: one panel of its first figure, small, with letters that can be read. Figures with faults are
marked too (`figure_faults`), for a test of the site.
"""

import re
import textwrap
import warnings
from html import escape
from pathlib import Path

import figure_faults
import numpy as np
from figure_faults import title_of
from foot import FOLDER
from matplotlib.gridspec import GridSpec

CARDS = FOLDER.with_name("_cards")
CARD = (2.67, 1.87)  # inches; at 150 dots an inch 400 × 280, as sphinx-gallery's thumbnails are
LINES = 8  # so many curves of an axis are told; the rest is counted
LONGEST = 900  # characters
ALTERNATIVE = re.compile(r"(?<=:alt: ).*")
CLASS = re.compile(r"(?<=:class: sphx-glr-)(single|multi)-img")


def scraper(block, block_vars, gallery_conf, **options):
    """Save the figures of a cell as sphinx-gallery does, each with what it shows."""
    import matplotlib.pyplot as plt
    from sphinx_gallery.scrapers import matplotlib_scraper

    figures = [plt.figure(number) for number in plt.get_fignums()]
    texts = iter([escape(describe(figure)) for figure in figures])
    marks = ["keeps-colours"] if any(ax.images for figure in figures for ax in figure.axes) else []
    marks += sorted({mark for figure in figures for mark in figure_faults.marks(figure)})
    rst = matplotlib_scraper(block, block_vars, gallery_conf, **options)
    if "_001.png" in rst:
        draw_card(figures[0], CARDS / f"{Path(block_vars['src_file']).stem}.png")
    rst = ALTERNATIVE.sub(lambda found: next(texts, found[0]), rst)
    return CLASS.sub(lambda found: " ".join([f"{found[1]}-img", *marks]), rst)


def draw_card(figure, path):
    """Save the largest panel of a figure, which is not needed any more, as a small picture."""
    if not figure.axes:
        return
    panel = max(figure.axes, key=lambda ax: ax.bbox.width * ax.bbox.height)
    for other in [*figure.legends, *(ax for ax in figure.axes if ax is not panel)]:
        other.remove()
    if figure.get_suptitle():
        figure.suptitle("")
    if panel.get_legend():
        panel.get_legend().remove()
    panel.set_subplotspec(GridSpec(1, 1, figure=figure)[0])
    title = "\n".join(textwrap.wrap(title_of(panel), 34))
    panel.set_title("", loc="center")
    panel.set_title(title, loc="left", fontsize=9)
    panel.tick_params(labelsize=8)
    for axis in (panel.xaxis, panel.yaxis):
        axis.label.set_fontsize(8)
        shorten_ticks(axis)
    figure.set_size_inches(CARD)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure.savefig(path, dpi=150)


def shorten_ticks(axis, longest=14):
    """Cut the names of categories that would leave no room for the drawing."""
    labels = tick_labels(axis)
    if any(len(name) > longest and "$" not in name for name in labels.values()):  # no formulas
        short = [
            name if len(name) <= longest else name[: longest - 1] + "…" for name in labels.values()
        ]
        axis.set_ticks(list(labels), labels=short)


def describe(figure):
    """All that a figure shows, in one line."""
    parts = [figure.get_suptitle()] if figure.get_suptitle() else []
    parts += [of_axes(ax) for ax in figure.axes if ax.get_label() != "<colorbar>"]
    text = " ".join(" ".join(f"{part.rstrip('.')}." for part in parts if part).split())
    text = text.replace("$", "").replace("\\", "").replace("*", "").replace("`", "")
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0] + " …"


def of_axes(ax):
    """The title of one drawing, what its axes are, and what each curve says."""
    what = " over ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
    title = title_of(ax)
    lead = f"{title} ({what})" if title and what else title or what
    curves = bars(ax) + [of_line(ax, line) for line in named_lines(ax)]
    told = [each for each in curves if each]
    more = [f"and {len(told) - LINES} more"] if len(told) > LINES else []
    pictures = [f"{len(ax.images)} picture"] if ax.images else []
    return ": ".join(filter(None, (lead, "; ".join([*told[:LINES], *more, *pictures]))))


def named_lines(ax):
    """The curves that the legend names; all of them, where it names none."""
    named = [line for line in ax.lines if not line.get_label().startswith("_")]
    return named or ax.lines


def of_line(ax, line):
    """What a curve says: where it begins and ends, how far it goes."""
    x, y = (np.asarray(data) for data in (line.get_xdata(orig=True), line.get_ydata(orig=True)))
    name = line.get_label()
    name = "" if name.startswith("_") else " ".join(name.split())
    if x.dtype.kind in "US" or y.dtype.kind in "US":  # categories: a dot a seed
        words, numbers = (x, y) if x.dtype.kind in "US" else (y, x)
        name = " ".join(filter(None, (" ".join(str(words.flat[0]).split()), name)))
        return f"{name} {between(numbers)}" if words.size else ""
    y = finite(y)
    if not y.size:
        return ""
    if y.size < 3 or y.min() == y.max():
        return f"{name} {between(y)}".strip()
    return f"{name} from {short(y[0])} to {short(y[-1])}, {between(y)}".strip()


def bars(ax):
    """What each bar says, by the label of its tick."""
    told = []
    for container in ax.containers:
        if not hasattr(container, "patches"):
            continue
        across = getattr(container, "orientation", "vertical") == "horizontal"
        ticks = tick_labels(ax.yaxis if across else ax.xaxis)
        label = container.get_label()
        for bar in container.patches:
            (left, bottom), width, height = bar.xy, bar.get_width(), bar.get_height()
            place = bottom + height / 2 if across else left + width / 2
            near = min(ticks, key=lambda at: abs(at - place), default=None)
            size = short(width if across else height)
            words = [ticks.get(near, ""), "" if label.startswith("_") else label, size]
            told.append(" ".join(filter(None, words)))
    return told


def tick_labels(axis):
    """The label of each tick, by its place."""
    axis.get_ticklabels()  # brings the ticks up to date
    ticks = axis.get_major_ticks()
    return {tick.get_loc(): " ".join(tick.label1.get_text().split()) for tick in ticks}


def between(numbers):
    """The least and the greatest, or the one number that all are."""
    numbers = finite(numbers)
    if not numbers.size:
        return "nothing finite"
    least, most = short(numbers.min()), short(numbers.max())
    return least if least == most else f"between {least} and {most}"


def finite(numbers):
    numbers = np.asarray(numbers, float)
    return numbers[np.isfinite(numbers)]


def short(number):
    """A number with three digits that count."""
    return f"{number:.3g}"
