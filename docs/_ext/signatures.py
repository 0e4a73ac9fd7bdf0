"""Signatures of layers as they are written; Keras's metaclass shows (*args, **kwargs) for all."""

import inspect


def show(app, what, name, obj, options, signature, return_annotation):
    """Take a class's signature from its own ``__init__``."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    return str(inspect.Signature(parameters)), return_annotation


def setup(app):
    """Ask to see every signature."""
    app.connect("autodoc-process-signature", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
