"""The build fails when a public name is missing from the API reference."""

import ast

from imports import packages
from project import ROOT
from sphinx.util import logging

logger = logging.getLogger(__name__)
# Programs of recorded sweeps, which the conformance page shows whole, and what reads for them.
PROGRAMS = ("bnref_gallery.conformance", "bnref_gallery.pytorch_", "bnref_gallery.upstream_")


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
    for module, names in public.items():
        # The name may be described in a package that passes it on, or in a module within.
        homes = [other for other in public if lies_in(module, other) or lies_in(other, module)]
        for name in names:
            known = any(f"{home}.{name}" in domain.objects for home in homes)
            if not known and f"{module}.{name}" not in domain.modules:
                logger.warning("%s.%s is public but not in the API reference", module, name)


def lies_in(module, package):
    """Whether a module is a package, or a part of it."""
    return f"{module}.".startswith(f"{package}.")


def setup(app):
    """Check once everything is read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
