"""Which public functions have hints: all of the gallery's props; in bnref, for plain values.

TensorFlow and Keras ship no types, so that a hint of theirs is checked by nobody: what a docstring
says to be a tensor, a layer or a model needs none. A number, a word, a switch or a file does. That
hints are right is what mypy says, in `make lint`.
"""

import importlib
import inspect
import pkgutil
import re

import pytest

import bnref
import bnref_gallery

PLAIN = re.compile(r'(int|float|bool|str|path|dict|callable|tuple of int|\{")\b|\{"')
# What has hints to get yet, whatever module it lies in; a function goes from here with its hints.
OPEN = {
    "BatchNorm.__init__",
    "BatchRenorm.__init__",
    "Checkpoints.__init__",
    "Classifier.__init__",
    "DomainBatchNorm.__init__",
    "ExampleWeighingBatchNorm.__init__",
    "GhostBatchNorm.__init__",
    "compiled_step",
    "evaluate",
    "moments_of_domains",
    "moments_of_parts",
    "normalize",
    "on_towers",
    "recompute",
    "rows_of_domains",
    "shuffled_batches",
    "strategy",
    "train",
}


def modules(package):
    names = [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [package.__name__, *names]


def functions(module):
    """The public functions of a module and the public methods of its classes, by name."""
    found = {}
    for name in module.__all__:
        value = inspect.unwrap(getattr(module, name))
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            found[name] = value
        elif inspect.isclass(value):
            found |= {
                f"{name}.{method}": inspect.unwrap(function)
                for method, function in vars(value).items()
                if inspect.isfunction(function)
                and (method == "__init__" or not method.startswith("_"))
            }
    return found


def without_hint(function):
    """The parameters that have none, and "return" if what is returned has none."""
    signature = inspect.signature(function)
    names = [
        name
        for name, each in signature.parameters.items()
        if each.annotation is each.empty and name != "self"
    ]
    return names + ["return"] * (signature.return_annotation is signature.empty)


def documented(text):
    """The types in words of the section Parameters, by name."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text or "", re.M | re.S)
    lines = re.findall(r"^([\w*][\w*, ]*) : (.+)$", section[1] if section else "", re.M)
    return {name.strip("*"): words for names, words in lines for name in names.split(", ")}


def plain_without_hint(function, text):
    """The parameters without a hint that are no tensor and no layer by what is documented."""
    types = documented(text)
    return [name for name in without_hint(function) if PLAIN.match(types.get(name, ""))]


@pytest.mark.parametrize("name", modules(bnref_gallery))
def test_every_public_function_of_the_props_has_hints(name):
    module = importlib.import_module(name)
    found = {name: without_hint(function) for name, function in functions(module).items()}
    assert {name: missing for name, missing in found.items() if missing} == {}


@pytest.mark.parametrize("name", modules(bnref))
def test_what_is_documented_as_a_plain_value_has_a_hint(name):
    module, found = importlib.import_module(name), {}
    for each, function in functions(module).items():
        owner = getattr(module, each.split(".")[0]) if each.endswith("__init__") else function
        found[each] = plain_without_hint(function, inspect.getdoc(owner))
    missing = {each: names for each, names in found.items() if names}
    assert {each: names for each, names in missing.items() if each not in OPEN} == {}


def example(x, count, *, name: str = "", **options):
    """Do nothing.

    Parameters
    ----------
    x, y : tensor
    count : int, ≥ 1
    name : str
    **options : dict
        Further ones.

    Returns
    -------
    number : int
    """


def test_a_missing_hint_is_seen_and_a_tensor_needs_none():
    assert without_hint(example) == ["x", "count", "options", "return"]
    assert plain_without_hint(example, inspect.getdoc(example)) == ["count", "options"]
    words = {"x": "tensor", "y": "tensor", "count": "int, ≥ 1", "name": "str", "options": "dict"}
    assert documented(inspect.getdoc(example)) == words
    assert PLAIN.match('{"raise", "keep"}') and not PLAIN.match("integer tensor, shape (N,)")


def test_functions_are_found_where_they_are_written_and_methods_too():
    loop = importlib.import_module("bnref.devices")
    assert "replicas" in functions(loop) and functions(bnref) == {}
    record = importlib.import_module("bnref_gallery.records.record")
    assert {"Record.__init__", "Record.add"} <= functions(record).keys()
