"""What autodoc shows of a class: the arguments as they are written, and nothing twice.

Keras's metaclass shows (*args, **kwargs) for every layer. A named tuple repeats each attribute,
which the class's own text describes, as "Alias for field number 0".
"""

import inspect
from collections import namedtuple

FIELD = type(namedtuple("Any", "field").field)


def show(app, what, name, obj, options, signature, return_annotation):
    """Take a class's signature from its own ``__init__``, without types: the text has them."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    untyped = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(untyped)), return_annotation


def skip(app, what, name, obj, would_skip, options):
    """Leave out the fields of a named tuple."""
    return True if isinstance(obj, FIELD) else None


def setup(app):
    """Ask to see every signature and every member."""
    app.connect("autodoc-process-signature", show)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
