"""The foot of each page: devices, data and source, scale, versions, seconds; how to run a script.

A gallery page is watched by `watch`, sphinx-gallery's reset hook, which also gives every script
the same start: devices configured, Keras's state cleared, seeds set, the figures' style.
"""

import datetime
import json
import logging
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from docutils import nodes
from project import ROOT, depend_on, first_section

FOLDER = ROOT / "docs" / "gallery" / "_foot"
STYLE = Path(__file__).with_name("figures.mplstyle")
INSTALL = 'pip install ".[gallery]"'
GROWTH = 2_000_000_000  # bytes
VERSIONS = ("tensorflow", "keras", "numpy")


class _Watch(logging.Handler):
    """Collects the data sets a script loads while it runs."""

    def __init__(self):
        super().__init__()
        self.data, self.started = [], (0.0, 0.0)

    def emit(self, record):
        if hasattr(record, "dataset") and str(record.dataset) not in self.data:
            self.data.append(str(record.dataset))


_watch = _Watch()


def watch(gallery_conf, fname, when):
    """Reset everything before a script, and write its foot after it."""
    if fname is None:
        return
    from bnref_gallery import claims

    log = logging.getLogger("bnref_gallery.datasets")
    if when == "before":
        keep_worker()
        reset()
        log.addHandler(_watch)
        log.setLevel(logging.INFO)
        log.propagate = False  # the foot says it; a log line on the page would say it twice
        claims.forget()
        _watch.data, _watch.started = [], clocks()
    else:
        import tensorflow as tf

        from bnref_gallery import scale

        if not tf.executing_eagerly():  # the next page of this process would fail instead
            raise RuntimeError(f"{fname} must leave the graph that it entered")
        log.removeHandler(_watch)
        seconds = [now - then for now, then in zip(clocks(), _watch.started, strict=True)]
        known = facts(scale.describe() + threads(), _watch.data, scale.scale(), *seconds)
        known["claims"] = claims.held()
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{Path(fname).stem}.json").write_text(json.dumps(known, indent=1))


def keep_worker():
    """Let a worker grow: joblib ends one that grows by 300 MB, and its next imports TensorFlow.

    That takes 4 s, some seven times a build. joblib has no argument for the limit.
    """
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = GROWTH


def clocks():
    """Seconds on the wall and seconds of all processors that this process has used."""
    return time.perf_counter(), time.process_time()


def reset():
    """The start that every script has."""
    import keras

    from bnref import devices

    devices.configure()
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    use_style()


def use_style():
    """Matplotlib as it comes, with the look of the site's figures."""
    import matplotlib.style

    matplotlib.rcdefaults()
    matplotlib.style.use(STYLE)


def threads():
    """How many threads a page's process may use, where the build says so."""
    number = os.environ.get("TF_NUM_INTRAOP_THREADS")
    return f", {number} thread{'s' if number != '1' else ''} a page" if number else ""


def facts(devices, data, scale, seconds, processor=None):
    """All that a foot says."""
    return {
        "devices": devices,
        "data": data,
        "scale": scale,
        "versions": {name: version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "seconds": seconds,
        "processor_seconds": processor,
        "date": datetime.date.today().isoformat(),
    }


def lines(facts):
    """The foot as pairs of a name and a text."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return [
        ("Ran on", facts["devices"]),
        ("Data", "; ".join(facts["data"]) or "made on the page"),
        ("Scale", facts["scale"]),
        ("Versions", f"Python {facts['python']}, {versions}"),
        ("Took", took(facts["seconds"], facts["processor_seconds"])),
    ]


def took(seconds, processor):
    """How long a page took; of processors, where it was one process that can tell."""
    return f"{seconds:.1f} s" + (f", {processor:.1f} s of processor time" if processor else "")


def run_it(stem):
    """What a reader types to run the script of this name after downloading it."""
    install, start = (nodes.literal(text=each) for each in (INSTALL, f"python {stem}.py"))
    return nodes.paragraph("", "In a clone of bnref, ", install, nodes.Text("; then "), start)


def add_to_page(app, doctree):
    """Append the foot to a gallery page, or to a MyST page whose cells were executed."""
    env, docname = app.env, app.env.docname
    path = FOLDER / f"{Path(docname).name}.json"
    if docname.startswith("gallery/") and path.exists():
        depend_on(env, path)
        foot = field_list(lines(json.loads(path.read_text())))
        foot += field("Run it", run_it(path.stem))
    elif (executed := executed_cells(env, docname)) and executed["succeeded"]:
        devices = f"{os.environ.get('BNREF_DEVICE', 'CPU')}, {platform.machine()}"
        scale = os.environ.get("BNREF_SCALE", "quick")
        foot = field_list(lines(facts(devices, [], scale, executed["runtime"])))
    else:
        return
    section = first_section(doctree)
    (doctree if section is None else section).append(foot)


def executed_cells(env, docname):
    """What myst-nb knows of a page's execution."""
    return getattr(env, "nb_metadata", {}).get(docname, {}).get("exec_data")


def field_list(pairs):
    """The foot as docutils has it."""
    fields = (field(name, nodes.paragraph(text=text)) for name, text in pairs)
    return nodes.field_list("", *fields, classes=["page-foot"])


def field(name, paragraph):
    """One line of the foot."""
    return nodes.field("", nodes.field_name(text=name), nodes.field_body("", paragraph))


def setup(app):
    """Add the foot once a page is read."""
    # After myst-nb has noted what it executed.
    app.connect("doctree-read", add_to_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
