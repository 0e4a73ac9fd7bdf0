"""The programs of this package as the site shows them: a file, or a probe with what it uses."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

__all__ = ["file_of", "program"]


def file_of(program: Callable) -> Path:
    """The file in which a probe, or the class of an implementation, stands."""
    return Path(inspect.getfile(program))


def program(probe: Callable) -> str:
    """The source of a probe, after what it uses of its own module, in the file's order."""
    text = file_of(probe).read_text("utf-8")
    defined = {name: node for node in ast.parse(text).body for name in _names(node)}
    wanted, left = set(), [probe.__name__]
    while left:
        wanted.add(name := left.pop())
        used = {each.id for each in ast.walk(defined[name]) if isinstance(each, ast.Name)}
        left += used & defined.keys() - wanted
    parts = sorted((defined[name] for name in wanted), key=lambda node: node.lineno)
    return "\n\n".join(ast.get_source_segment(text, node) or "" for node in dict.fromkeys(parts))


def _names(node):
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
