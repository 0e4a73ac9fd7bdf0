"""Every public function has type hints; that they are right is what mypy says, in `make lint`.

What needs none: methods of layers besides ``__init__``, which take what Keras's, or the base
layer's, take; and ``*args`` and ``**kwargs``, which are described where they are passed on to.
TensorFlow and Keras ship no types, so that hints such as ``tf.Tensor`` are for readers and editors.
"""

import importlib
import inspect
import pkgutil

import keras
import pytest

import bnref
import bnref_gallery


def modules(package):
    """The names of a package and of its modules that are not private."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(each.name for each in found if "._" not in each.name)]


def functions(module):
    """The public functions of a module and the public methods of its classes, by name."""
    found = {}
    for name in module.__all__:
        value = inspect.unwrap(getattr(module, name))
        if inspect.isfunction(value):
            found[name] = value
        elif inspect.isclass(value):
            found |= {f"{name}.{method}": each for method, each in methods(value).items()}
    return found


def methods(owner):
    """The public methods of a class, with ``__init__``; of a layer that alone."""
    wanted = {name: each for name, each in vars(owner).items() if inspect.isfunction(each)}
    if issubclass(owner, keras.layers.Layer):
        return {name: each for name, each in wanted.items() if name == "__init__"}
    public = {name: each for name, each in wanted.items() if not name.startswith("_")}
    return public | {name: each for name, each in wanted.items() if name == "__init__"}


def without_hint(function):
    """The parameters that have none, and "return" if what is returned has none."""
    signature = inspect.signature(function)
    names = [
        name
        for name, each in signature.parameters.items()
        if each.annotation is each.empty
        and name not in ("self", "run")  # a checkpoint's run, whose module imports the checkpoint's
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    returns = signature.return_annotation is not signature.empty
    return names + ["return"] * (not returns and function.__name__ != "__init__")


@pytest.mark.parametrize("name", [*modules(bnref), *modules(bnref_gallery)])
def test_every_public_function_has_hints(name):
    found = functions(importlib.import_module(name))
    missing = {each: without_hint(function) for each, function in found.items()}
    assert {each: names for each, names in missing.items() if names} == {}


def example(x, count, *others, name: str = "", **options):
    """Four parameters, of which one has a hint."""


def test_a_missing_hint_is_seen():
    assert without_hint(example) == ["x", "count", "return"]


def test_functions_are_found_and_methods_too():
    found = functions(bnref.training)
    assert {"train", "Run.__init__", "Run.step", "Checkpoints.steps"} <= found.keys()
    assert "BatchNorm.__init__" in functions(bnref.layers)
    assert "BatchNorm.call" not in functions(bnref.layers)
    assert {"Record.__init__", "Record.add"} <= functions(bnref_gallery.records).keys()
