"""The foot of each page: devices, data and source, scale, versions, seconds; how to run a script.

A gallery page is watched by `watch`, sphinx-gallery's reset hook, which also gives every script
the same start: devices configured, Keras's state cleared, seeds set, the figures' style.
"""

import json
import logging
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from docutils import nodes

FOLDER = Path(__file__).resolve().parents[1] / "gallery" / "_foot"
INSTALL = 'pip install ".[gallery]"'
VERSIONS = ("tensorflow", "keras", "numpy")
STYLE = {
    "figure.figsize": (6.2, 3.6), "figure.dpi": 100, "savefig.dpi": 100,
    "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 11,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#dddddd", "grid.linewidth": 0.6, "legend.frameon": False,
    "lines.linewidth": 1.8, "axes.titlelocation": "left",
}  # fmt: skip
# Okabe & Ito's colours, told apart with any colour vision; the darker ones first.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#E69F00", "#56B4E9"]


class _Watch(logging.Handler):
    """Collects the data sets a script loads while it runs."""

    def __init__(self):
        super().__init__()
        self.data, self.started = [], 0.0

    def emit(self, record):
        if hasattr(record, "dataset") and str(record.dataset) not in self.data:
            self.data.append(str(record.dataset))


_watch = _Watch()


def watch(gallery_conf, fname, when):
    """Reset everything before a script, and write its foot after it."""
    if fname is None:
        return
    import keras

    from bnref import devices
    from bnref_gallery import scale

    log = logging.getLogger("bnref_gallery.datasets")
    if when == "before":
        devices.configure()
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        use_style()
        log.addHandler(_watch)
        log.setLevel(logging.INFO)
        log.propagate = False  # the foot says it; a log line on the page would say it twice
        _watch.data, _watch.started = [], time.perf_counter()
    else:
        import tensorflow as tf

        if not tf.executing_eagerly():  # the next page of this process would fail instead
            raise RuntimeError(f"{fname} must leave the graph that it entered")
        log.removeHandler(_watch)
        facts = {
            "devices": scale.describe() + threads(), "data": _watch.data, "scale": scale.scale(),
            "versions": {name: version(name) for name in VERSIONS},
            "python": platform.python_version(), "seconds": time.perf_counter() - _watch.started,
        }  # fmt: skip
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{Path(fname).stem}.json").write_text(json.dumps(facts, indent=1))


def threads():
    """How many threads a page's process may use, where the build says so."""
    number = os.environ.get("TF_NUM_INTRAOP_THREADS")
    return f", {number} thread{'s' if number != '1' else ''} a page" if number else ""


def use_style():
    """The look of the figures; a downloaded script has matplotlib's own."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=COLOURS)


def lines(facts):
    """The foot as sentences."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    data = "; ".join(facts["data"]) or "made on the page"
    return [
        ("Ran on", facts["devices"]), ("Data", data), ("Scale", facts["scale"]),
        ("Versions", f"Python {facts['python']}, {versions}"),
        ("Took", f"{facts['seconds']:.1f} s"),
    ]  # fmt: skip


def run_it(stem):
    """What a reader types to run the script of this name after downloading it."""
    install, start = (nodes.literal(text=each) for each in (INSTALL, f"python {stem}.py"))
    return nodes.paragraph("", "In a clone of bnref, ", install, nodes.Text("; then "), start)


def add_to_page(app, doctree):
    """Append the foot to a gallery page, or to a MyST page whose cells were executed."""
    env, docname = app.env, app.env.docname
    is_script = False
    path = FOLDER / f"{Path(docname).name}.json"
    executed = env.metadata[docname].get("exec_data") or _executed(env, docname)
    if docname.startswith("gallery/") and path.exists():
        env.note_dependency(str(path))
        facts, is_script = json.loads(path.read_text()), True
    elif executed and executed.get("succeeded"):
        facts = {
            "devices": f"{os.environ.get('BNREF_DEVICE', 'CPU')}, {platform.machine()}",
            "data": [], "scale": os.environ.get("BNREF_SCALE", "quick"),
            "versions": {name: version(name) for name in VERSIONS},
            "python": platform.python_version(), "seconds": executed["runtime"],
        }  # fmt: skip
    else:
        return
    foot = _foot(lines(facts))
    if is_script:
        foot += _field("Run it", run_it(path.stem))
    _section(doctree).append(foot)


def _executed(env, docname):
    """What myst-nb knows of a page's execution."""
    return getattr(env, "nb_metadata", {}).get(docname, {}).get("exec_data")


def _section(doctree):
    """The page's section, so that the foot stands inside the article and not beside it."""
    return next(iter(doctree.findall(nodes.section)), doctree)


def _foot(pairs):
    fields = nodes.field_list(classes=["page-foot"])
    fields += [_field(name, nodes.paragraph(text=text)) for name, text in pairs]
    return fields


def _field(name, paragraph):
    return nodes.field("", nodes.field_name(text=name), nodes.field_body("", paragraph))


def setup(app):
    """Add the foot once a page is read."""
    # After myst-nb has noted what it executed.
    app.connect("doctree-read", add_to_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
