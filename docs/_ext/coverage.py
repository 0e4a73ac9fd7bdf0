"""The build fails when a public name is missing from the API reference."""

import ast
from pathlib import Path

from sphinx.util import logging

PACKAGE = Path(__file__).resolve().parents[2] / "bnref"
logger = logging.getLogger(__name__)


def public_names(package=PACKAGE):
    """Every name in the ``__all__`` of a module, as {module: names}, read without importing."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        module = ".".join(["bnref", *path.relative_to(package).with_suffix("").parts])
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
                found[module.removesuffix(".__init__")] = ast.literal_eval(node.value)
    return found


def check(app, env):
    """Warn, and a warning is an error, for each public name that no page describes."""
    described = {name.rpartition(".")[2] for name in env.get_domain("py").objects}
    modules = set(env.get_domain("py").modules)
    for module, names in public_names().items():
        for name in names:
            if name not in described and f"{module}.{name}" not in modules:
                logger.warning("%s.%s is public but not in the API reference", module, name)


def setup(app):
    """Check once everything is read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
