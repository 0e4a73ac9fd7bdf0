"""Tests of who imports whom, by reading the sources, and of what is public."""

import ast
import csv
import importlib
import pkgutil
import re
import types
from pathlib import Path

import pytest
from helpers import ROOT, in_new_process

import bnref
import bnref_gallery

PACKAGE = Path(bnref.__file__).parent
GALLERY = PACKAGE.parent / "gallery"
PROPS = Path(bnref_gallery.__file__).parent

# A check reads a case; it knows neither layers nor who asks it.
CHECKS_MAY_IMPORT = {
    "doctor.checks._bases",
    "doctor._passes",
    "doctor._saving",
    "doctor.checks",
    "doctor.checks._channels",
    "doctor.checks._check",
    "doctor.checks._remembered",
    "doctor.checks._start",
    "doctor.checks._statistics",
}

# What each module may import of the package. Imports run one way, training → workers, devices,
# population → norms → layers → functional; the others know no layer. A new module, other than a
# layer, is given its place here.
MAY_IMPORT = {
    "_backend": set(),
    "_checks": set(),
    "functional._inputs": {"functional._replicas"},
    "functional._replicas": set(),
    "functional._rows": set(),
    "functional._moments": {"functional._inputs", "functional._rows"},
    "functional._selected_moments": {
        "functional._inputs",
        "functional._moments",
        "functional._replicas",
        "functional._rows",
    },
    "functional._formulas": {"functional._inputs", "functional._rows"},
    "functional._normalize": {
        "functional._formulas",
        "functional._inputs",
        "functional._moments",
    },
    "functional._over_replicas": {"functional._moments", "functional._replicas"},
    "norms._calling": set(),
    "norms._converting": {
        "norms._finding",
        "norms._making",
        "norms._norm",
        "norms._replacing",
    },
    "norms._feeding": set(),
    "norms._finding": {"norms._libraries", "norms._norm", "norms._rebuilding"},
    "norms._given": {"norms._calling", "norms._finding"},
    "norms._libraries": {"functional", "layers", "norms._norm"},
    "norms._making": {"norms._norm"},
    "norms._model_libraries": set(),
    "norms._norm": {"functional", "norms._calling"},
    "norms._rebuilding": set(),
    "norms._replacing": {"norms._finding", "norms._rebuilding"},
    "population._checking": {"_checks", "norms"},
    "population._estimators": set(),
    "population._over_workers": {"functional._replicas"},
    "population._passing": {
        "norms",
        "norms._calling",
        "norms._feeding",
        "norms._finding",
        "population._unchanged",
    },
    "population._recomputing": {
        "population._checking",
        "population._estimators",
        "population._over_workers",
        "population._passing",
    },
    "population._unchanged": set(),
    "layers._channel_layer": {"_checks", "layers._stored"},
    "layers._combining": set(),
    "layers._recomputing": set(),
    "layers._schedule": {"_checks"},
    "layers._stored": set(),
    "layers.batch_norm": {
        "_checks",
        "functional",
        "layers._channel_layer",
        "layers._combining",
        "layers._recomputing",
    },
    "layers.any other": {
        "_checks",
        "functional",
        "functional._inputs",
        "functional._over_replicas",
        "functional._selected_moments",
        "layers._combining",
        "layers.batch_norm",
    },
    "layers.batch_renorm": {"layers._recomputing", "layers._schedule", "layers.batch_norm"},
    "training._added": set(),
    "training._batches": set(),
    "training._callbacks": {"functional._replicas", "workers"},
    "training._checkpoints": {"_checks"},
    "training._ending": {"functional._replicas", "workers"},
    "training._errors": {"functional._replicas", "workers"},
    "training._evaluation": {
        "_checks",
        "population",
        "training._batches",
        "training._losses",
        "training._metrics",
        "training._pipelines",
        "training._populations",
        "training._sources",
    },
    "training._first_batch": {"population._over_workers"},
    "training._gradients": set(),
    "training._losses": set(),
    "training._loop": {
        "_checks",
        "training._callbacks",
        "training._checkpoints",
        "training._ending",
        "training._errors",
        "training._evaluation",
        "training._rows",
        "training._sources",
        "training._step",
        "workers",
    },
    "training._measuring": {"training._evaluation", "training._step"},
    "training._metrics": set(),
    "training._pipelines": {
        "training._batches",
        "training._first_batch",
        "training._structure",
    },
    "training._populations": {
        "functional._replicas",
        "norms",
        "population._passing",
        "population._recomputing",
    },
    "training._randomness": {"functional._replicas"},
    "training._rows": {"workers"},
    "training._run": {
        "training._batches",
        "training._evaluation",
        "training._loop",
        "training._measuring",
        "training._step",
    },
    "training._sources": {"_checks", "training._batches", "training._pipelines"},
    "training._step": {
        "_checks",
        "training._added",
        "training._batches",
        "training._gradients",
        "training._losses",
        "training._randomness",
    },
    "training._structure": set(),
    "training._strategy": {"_checks", "devices", "workers"},
    "workers.__main__": {"workers"},
    "workers._launcher": {"_checks"},
    "workers._rendezvous": {"workers._slurm"},
    "workers._slurm": set(),
    "conventions._converting": {"_checks", "conventions._frameworks"},
    "conventions._frameworks": set(),
    "conventions._layouts": set(),
    "conventions._matching": {"conventions._modules", "conventions._targets"},
    "conventions._models": {
        "_checks",
        "conventions._converting",
        "conventions._frameworks",
        "conventions._matching",
        "conventions._modules",
        "conventions._targets",
        "conventions._weights",
    },
    "conventions._modules": {"conventions._frameworks"},
    "conventions._porting": {"_checks", "conventions._converting", "conventions._frameworks"},
    "conventions._targets": {"conventions._layouts", "norms", "norms._finding"},
    "conventions._weights": {
        "_checks",
        "conventions._converting",
        "conventions._layouts",
        "conventions._modules",
        "conventions._targets",
    },
    "devices": {"_checks"},
    "doctor.__main__": {"doctor"},
    "doctor._alikeness": {"norms"},
    "doctor._batches": {"norms._feeding"},
    "doctor._case": {
        "doctor._alikeness",
        "doctor._batches",
        "doctor._logits",
        "doctor._modes",
        "doctor._passes",
        "doctor._tracing",
        "norms",
    },
    "doctor._examine": {
        "_checks",
        "doctor._batches",
        "doctor._case",
        "doctor._keeping",
        "doctor._report",
        "doctor.checks",
    },
    "doctor._html": {"doctor.checks._check"},
    "doctor._keeping": {"doctor._randomness"},
    "doctor._logits": {"norms", "norms._calling"},
    "doctor._losses": set(),
    "doctor._modes": {
        "doctor._batches",
        "doctor._keeping",
        "doctor._logits",
        "doctor._losses",
        "doctor._passes",
        "doctor._saving",
        "doctor._structure",
        "norms",
        "population._passing",
    },
    "doctor._passes": {
        "doctor._batches",
        "doctor._logits",
        "doctor._seen",
        "norms",
        "norms._calling",
        "population._estimators",
    },
    "doctor._randomness": set(),
    "doctor._report": {
        "doctor._html",
        "doctor.checks._channels",
        "doctor.checks._check",
        "doctor.checks._statistics",
    },
    "doctor._saving": {"norms", "norms._model_libraries"},
    "doctor._seen": {"norms"},
    "doctor._structure": {"norms", "norms._finding", "norms._model_libraries"},
    "doctor._tracing": {"norms._calling"},
    "doctor._watch": {"doctor._batches", "doctor._examine", "doctor._report"},
    "doctor.checks._bases": set(),
    "doctor.checks._channels": set(),
    "doctor.checks._check": set(),
    "doctor.checks._epsilon": CHECKS_MAY_IMPORT,
    "doctor.checks._frozen": CHECKS_MAY_IMPORT,
    "doctor.checks._order": CHECKS_MAY_IMPORT,
    "doctor.checks._remembered": CHECKS_MAY_IMPORT,
    "doctor.checks._remembered_for": CHECKS_MAY_IMPORT,
    "doctor.checks._saved": CHECKS_MAY_IMPORT,
    "doctor.checks._start": {"doctor.checks._channels"},
    "doctor.checks._statistics": {"doctor.checks._channels"},
    "doctor.checks._used": CHECKS_MAY_IMPORT,
    "doctor.checks._used_for": CHECKS_MAY_IMPORT,
    "doctor.checks._whose_axes": CHECKS_MAY_IMPORT,
    "doctor.checks._whose_batch": CHECKS_MAY_IMPORT,
    "doctor.checks._whose_size": CHECKS_MAY_IMPORT,
    "folding._layer": {"norms", "population"},
    "folding._model": {
        "folding._layer",
        "norms",
        "norms._finding",
        "norms._rebuilding",
        "population",
    },
    "moving_average": set(),
    "tf1._conditions": set(),
    "tf1._placement": {"_checks", "tf1._servers"},
    "tf1._posted": {"tf1._variables"},
    "tf1._servers": set(),
    "tf1._towers": {"tf1._placement"},
    "tf1._variables": set(),
}
# What the props import of the project: of the library its public names, of each other what is
# listed. A new one is given its place here.
PROPS_MAY_IMPORT = {
    "conformance": {"bnref", "conformance"},
    "datasets": set(),  # nor itself by its full name: the site loads the folder alone
    "defects": set(),
    "federated": {"bnref", "datasets"},
    "image_files": {"datasets"},
    "itself": set(),
    "models": set(),
    "pytorch_tabs": set(),
    "records": {"records", "scale"},
    "residual_networks": {"models"},
    "restarts": set(),
    "scale": {"bnref"},
    "second_derivatives": set(),
    "second_passes": set(),
    "claims": set(),
    "sick_models": {"bnref", "datasets", "sick_models"},
    "timing": set(),
    "tower_networks": {"bnref"},
    "upstream_reports": {"upstream_rules"},
    "upstream_rules": set(),
}
# Slow to import, or of use to the site alone.
FOREIGN = ["IPython", "matplotlib", "mlxtend", "pandas", "sklearn", "sphinx", "tf_keras"]
FOREIGN += ["tqdm.notebook"]


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(source):
    """The dotted names of all modules and members that a source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def imported_modules(source):
    """The modules of the package that a source imports, without ``bnref.``; "" is all of it."""
    for name in imported(source):
        parts = name.split(".")
        if parts[0] == "bnref":
            while parts[1:] and not is_module(".".join(parts)):
                parts.pop()
            yield ".".join(parts[1:])


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, and no package
        return False


def modules_of(package):
    """The names of a package and of its modules; those of the sweeps need what is not installed."""
    yield package.__name__
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not re.match(r"bnref_gallery\.(conformance|upstream)", each.name):
            yield each.name


def forbidden_among_props(name, source):
    """What the prop of this name imports of the project and may not."""
    room = name.split(".")[0]
    assert room in PROPS_MAY_IMPORT, f"bnref_gallery.{room} is new: give it its place"
    names = [each.split(".") for each in imported(source)]
    rooms = {each[1] for each in names if each[0] == "bnref_gallery"}
    rooms |= {"bnref" for each in names if each[0] == "bnref"}
    return rooms - PROPS_MAY_IMPORT[room]


def forbidden_imports(name, source):
    """What the module of this name imports of the package and may not."""
    if name.startswith("layers.") and name not in MAY_IMPORT:
        name = "layers.any other"
    name = name if name in MAY_IMPORT else name.split(".")[0]
    assert name in MAY_IMPORT, f"bnref.{name} is new: give it its place in MAY_IMPORT"
    return set(imported_modules(source)) - MAY_IMPORT[name]


def sources(folder):
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize(
    "path", [each for each in sources(PACKAGE) if each.name != "__init__.py"], ids=module_name
)
def test_imports_within_the_package_run_one_way(path):
    assert forbidden_imports(module_name(path), path.read_text("utf-8")) == set()


@pytest.mark.parametrize(
    "name, source, found",
    [
        ("functional._rows", "from bnref.population import pooled", {"population"}),
        (
            "population._checking",
            "def f():\n    import bnref.layers.batch_norm",
            {"layers.batch_norm"},
        ),
        ("population._checking", "from bnref import functional, BatchNorm", {"", "functional"}),
        ("layers.a", "from bnref.layers.batch_norm import BatchNorm", set()),
        ("layers.a", "from bnref.layers.b import B", {"layers.b"}),
        ("layers.a", "from bnref.layers import BatchNorm", {"layers"}),
        ("layers.batch_norm", "from bnref import training", {"training"}),
        ("devices", "import bnref", {""}),
        ("training._strategy", "from bnref import devices, folding", {"folding"}),
        ("tf1._towers", "from bnref.tf1 import _posted", {"tf1._posted"}),
    ],
)
def test_an_import_the_wrong_way_is_found(name, source, found, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "bnref.layers.b" or known(name)
    )
    assert forbidden_imports(name, source) == found


@pytest.mark.parametrize(
    "path", [each for each in sources(PROPS) if each != PROPS / "__init__.py"], ids=str
)
def test_props_import_the_library_and_what_is_listed(path):
    name = ".".join(path.relative_to(PROPS).with_suffix("").parts)
    assert forbidden_among_props(name, path.read_text("utf-8")) == set()


@pytest.mark.parametrize(
    "name, source, found",
    [
        ("models", "import bnref", {"bnref"}),
        ("records._provenance", "from bnref_gallery import scale, datasets", {"datasets"}),
        ("datasets._files", "from bnref_gallery.datasets import _dataset", {"datasets"}),
        ("scale", "from bnref import devices", set()),
    ],
)
def test_an_import_among_the_props_that_is_not_listed_is_found(name, source, found):
    assert forbidden_among_props(name, source) == found


@pytest.mark.parametrize("path", [*sources(PACKAGE), *sources(PROPS)], ids=str)
def test_imports_are_absolute_but_in_the_folder_that_the_site_loads_alone(path):
    tree = ast.parse(path.read_text("utf-8"))
    levels = {node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    alone = path.parent == PROPS / "datasets"
    assert levels <= ({0, 1} if alone else {0}), "absolute imports can be read"


@pytest.mark.parametrize("path", sources(PACKAGE), ids=module_name)
def test_no_module_imports_what_only_the_site_needs(path):
    names, unwanted = set(imported(path.read_text("utf-8"))), [*FOREIGN, "bnref_gallery"]
    assert not [each for each in names for other in unwanted if f"{each}.".startswith(f"{other}.")]


@pytest.mark.slow
def test_every_module_can_be_imported_where_what_only_the_site_needs_is_missing():
    in_new_process("-W", "error", str(ROOT / "tests" / "every_module_without.py"), *FOREIGN)


@pytest.mark.parametrize(
    "name",
    [name for package in (bnref, bnref_gallery) for name in modules_of(package)],
)
def test_every_module_lists_its_public_names_and_has_them(name):
    module = importlib.import_module(name)
    if name.rpartition(".")[2].startswith("_"):
        assert not hasattr(module, "__all__"), "a private module has no public names"
        return
    assert module.__all__ == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for each in module.__all__:
        assert not each.startswith("_")
        value = getattr(module, each)
        assert value.__doc__, f"{each} is undocumented"
        if isinstance(value, dict):  # a table of the package's functions
            value = next(iter(value.values()))
        home = getattr(value, "__module__", None) or value.__name__
        assert home.startswith("bnref"), f"{each} is not the package's own"


def is_public(dotted):
    """Whether each step of ``bnref.a.b`` is a module of the package or in the list before it."""
    owner, *names = dotted.split(".")
    owner = importlib.import_module(owner)
    for name in names:
        if not isinstance(owner, types.ModuleType):
            return not name.startswith("_")
        if not name.startswith("_") and is_module(f"{owner.__name__}.{name}"):
            owner = importlib.import_module(f"{owner.__name__}.{name}")
        elif name in owner.__all__:
            owner = getattr(owner, name)
        else:
            return name == "__version__"
    return True


def private_names(source, packages=("bnref", "bnref_gallery")):
    """The names of the packages that a script uses and that are not public."""
    tree, known = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.split(".")[0]
                known[each.asname or first] = each.name if each.asname else first
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                known[each.asname or each.name] = f"{node.module}.{each.name}"
    known = {name: dotted for name, dotted in known.items() if dotted.split(".")[0] in packages}
    used = {*known.values(), *(each for each in imported(source) if each.split(".")[0] in packages)}
    for node in ast.walk(tree):
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id in known:
            used.add(".".join([known[node.id], *names]))
    return sorted(each for each in used if not is_public(each))


def test_gallery_scripts_use_public_names_only():
    found = {}
    for path in sources(GALLERY):
        packages = ["bnref"] if path.is_relative_to(PROPS) else ["bnref", "bnref_gallery"]
        found[str(path)] = private_names(path.read_text("utf-8"), packages)
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source, found",
    [
        ("import bnref\nbnref.BatchNorm(momentum=0.9)\nbnref.__version__", []),
        ("from bnref.layers import DebiasedBatchNorm as D\nD().call", []),
        ("import bnref\nbnref.functional.moments(1).mean", []),
        ("from bnref import functional as f\nf._rows(1)", ["bnref.functional._rows"]),
        ("from bnref.functional import _rows", ["bnref.functional._rows"]),
        ("from bnref.population import ESTIMATORS", ["bnref.population.ESTIMATORS"]),
        ("import bnref\nbnref.training.tqdm(2)", ["bnref.training.tqdm"]),
        ("import bnref.layers.batch_norm as b\nb.math", ["bnref.layers.batch_norm.math"]),
        ("import bnref\nbnref.BatchNorm._vector", ["bnref.BatchNorm._vector"]),
    ],
)
def test_a_private_name_in_a_script_is_found(source, found):
    assert private_names(source) == found


def test_the_reference_imports_numpy_alone():
    source = Path(__file__).with_name("reference.py").read_text("utf-8")
    assert set(imported(source)) == {"numpy"}


@pytest.mark.parametrize("name", bnref.layers.__all__)
def test_each_layer_names_the_page_that_shows_it_as_the_table_of_variants_does(name):
    shown = re.search(r"Shown in :doc:`/(.+)`", getattr(bnref.layers, name).__doc__)
    assert shown, f"{name} says nowhere which page shows it"
    with (PACKAGE.parent / "docs" / "variants.csv").open(encoding="utf-8") as file:
        pages = {row["name"]: row["page"] for row in csv.DictReader(file)}
    assert pages[f"layers.{name}"] == shown[1]
    suffix = ".py" if shown[1].startswith("gallery/") else ".md"
    folder = PACKAGE.parent if suffix == ".py" else PACKAGE.parent / "docs"
    assert name in (folder / f"{shown[1]}{suffix}").read_text("utf-8")
