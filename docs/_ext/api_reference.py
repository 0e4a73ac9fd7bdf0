"""The reference: an overview of all public names, where each is used, and links to the source.

``.. public-names:: bnref.layers`` is the table of a module's public names, each with its first
sentence. Below each class and function of the pages in ``api/`` stand the gallery's pages that use
it, those first that use little else. Sources are linked where the build knows the repository.
"""

import ast
import importlib
import inspect

from addresses import repository
from coverage import public_names
from docutils import nodes
from project import ROOT, depend_on, link_to
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

SHOWN = 3


class PublicNames(SphinxDirective):
    """The public names of a module."""

    required_arguments = 1

    def run(self):
        """Leave the table to autosummary."""
        module = self.arguments[0]
        names = public_names().get(module)
        if not names:
            raise self.error(f"{module} has no public names")
        lines = [".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {module}.{name}" for name in names]
        return self.parse_text_to_nodes("\n".join(lines))


def names_in(script):
    """Every name and attribute that a script writes."""
    tree = ast.walk(ast.parse(script.read_text("utf-8")))
    found = [getattr(node, "id", None) or getattr(node, "attr", None) for node in tree]
    return {each for each in found if isinstance(each, str)}


def say_where_used(app, doctree):
    """Below each public name, the pages whose scripts use it."""
    if not app.env.docname.startswith("api/"):
        return
    scripts = {path: names_in(path) for path in sorted(ROOT.glob("gallery/*/plot_*.py"))}
    public = {name for names in public_names().values() for name in names}
    for desc in doctree.findall(addnodes.desc):
        ids = desc[0].get("ids")
        if not ids or desc.get("objtype") not in ("class", "function", "data"):
            continue
        name = ids[0].rpartition(".")[2]
        pages = [path for path, names in scripts.items() if name in names and name in public]
        pages.sort(key=lambda path: len(scripts[path] & public))
        if pages:
            line = nodes.paragraph("", "", nodes.strong(text="Used on: "), classes=["used-on"])
            for number, path in enumerate(pages[:SHOWN]):
                depend_on(app.env, path)
                line += [nodes.Text("; ")] if number else []
                line += link_to(app.env, path.relative_to(ROOT).with_suffix("").as_posix())
            desc[-1] += line


def linkcode_resolve(domain, info):
    """The address of a name's source, None where nobody says where the repository is."""
    if domain != "py" or not repository() or not info["module"]:
        return None
    found = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        found = getattr(found, part, None)
    try:
        found = inspect.unwrap(found)
        path, (lines, first) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except TypeError:  # a value has no source of its own
        return None
    place = path.removeprefix(f"{ROOT}/")
    return f"{repository()}/blob/main/{place}#L{first}-L{first + len(lines) - 1}"


def setup(app):
    """Add the directive and the lines."""
    app.add_directive("public-names", PublicNames)
    app.connect("doctree-read", say_where_used)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
