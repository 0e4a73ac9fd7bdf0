"""The build fails when a public name is missing from the API reference."""

import ast
from collections import defaultdict
from pathlib import Path

from imports import packages
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
logger = logging.getLogger(__name__)
# Programs of recorded sweeps, which the conformance page shows whole.
PROGRAMS = ("bnref_gallery.conformance", "bnref_gallery.upstream_")


def public_names(folders=None):
    """Every name in the ``__all__`` of a module, as {module: names}, read without importing."""
    found = {}
    for name, folder in (folders or packages(ROOT)).items():
        for path in sorted(folder.rglob("*.py")):
            module = ".".join([name, *path.relative_to(folder).with_suffix("").parts])
            if module.startswith(PROGRAMS):
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    found[module.removesuffix(".__init__")] = ast.literal_eval(node.value)
    return found


def check(app, env):
    """Warn, and a warning is an error, for each public name that no page describes."""
    domain, public = env.get_domain("py"), public_names()
    described = defaultdict(set)  # of each name, the modules that it is described in
    for full in domain.objects:
        module, _, name = full.rpartition(".")
        if module in public:  # and no method of the same name
            described[name].add(module)
    for module, names in public.items():
        for name in names:
            known = any(related(module, other) for other in described[name])
            if not known and f"{module}.{name}" not in domain.modules:
                logger.warning("%s.%s is public but not in the API reference", module, name)


def related(module, other):
    """Whether one is the other, or lies in it: then it passes on the same name."""
    return f"{module}.".startswith(f"{other}.") or f"{other}.".startswith(f"{module}.")


def setup(app):
    """Check once everything is read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
