"""Which files of the project a script rests on: those it imports, and those that they import.

A name that a package passes on, such as ``bnref.BatchNorm``, leads to the module that defines it
and not to all that the package has: an edit concerns the pages that use what was edited, and no
other.
"""

import ast
import re
from functools import cache
from pathlib import Path

__all__ = ["files_behind", "packages", "uses"]
PROGRAM = re.compile(r"^(?:import|from) .*\bbnref", re.MULTILINE)


def packages(root):
    """The folders of the project's packages, by import name."""
    return {"bnref": Path(root, "bnref"), "bnref_gallery": Path(root, "gallery", "bnref_gallery")}


def files_behind(source, root):
    """The project's files that a script of this source imports, directly or through others."""
    found, waiting = set(), list(uses(source))
    while waiting:
        for path in located(waiting.pop(), packages(root)):
            if path not in found:
                found.add(path)
                waiting += uses_of(path, packages(root))
    return sorted(found)


@cache
def uses(source, package=""):
    """The dotted names that a source imports; of a package that is imported whole, those it names.

    Relative imports are those of a module of ``package``. Where a package is passed on whole, as to
    ``getattr``, all of it is used. A program in a string, for another process, counts too: all of
    the project, where it cannot be read.
    """
    nodes = list(ast.walk(ast.parse(source)))
    whole, names = {}, set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {f"{module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            whole |= {each.asname or each.name: each.name for each in node.names}
            names |= {each.name for each in node.names if "." in each.name}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    named = {id(node.value): node.attr for node in attributes if isinstance(node.value, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in whole:
            names.add(".".join(filter(None, [whole[node.id], named.get(id(node))])))
    for node in nodes:
        if isinstance(node, ast.Constant) and PROGRAM.search(str(node.value)):
            try:
                names |= uses(node.value)
            except SyntaxError:
                names |= {"bnref", "bnref_gallery"}
    return frozenset(names)


def uses_of(path, folders):
    """What a file of the project needs itself: not what an ``__init__`` passes on, by name."""
    names = uses(path.read_text("utf-8"), _package_of(path, folders))
    if path.name == "__init__.py":
        return [name for name in names if name.rpartition(".")[2].startswith("_")]
    return list(names)


def located(name, folders):
    """The files that a dotted name leads to: each package on the way, and the module at its end."""
    first, *rest = name.split(".")
    if first not in folders:
        return []
    folder = folders[first]
    found = [folder / "__init__.py"]
    for part in rest:
        if (folder / part).is_dir():
            folder = folder / part
            found.append(folder / "__init__.py")
        elif (folder / f"{part}.py").is_file():
            return [*found, folder / f"{part}.py"]
        else:  # what the package passes on, or has itself
            return found + _passed_on(folder, folders, part)
    return found + _passed_on(folder, folders)


def _passed_on(folder, folders, name=None):
    """The files of one name that a package imports, or of all."""
    home = folder / "__init__.py"
    found = uses(home.read_text("utf-8"), _package_of(home, folders))
    wanted = [each for each in found if name in (None, each.rpartition(".")[2])]
    return [path for each in wanted for path in located(each, folders)]


def _package_of(path, folders):
    """The dotted name of the package that a file stands in."""
    for name, folder in folders.items():
        if path.is_relative_to(folder):
            return ".".join([name, *path.parent.relative_to(folder).parts])
    raise ValueError(f"{path} is in none of {', '.join(folders)}")
