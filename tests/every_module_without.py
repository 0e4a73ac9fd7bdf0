"""Import all of bnref where others are missing: ``python every_module_without.py NAME...``.

Keras itself imports some of those where it finds them, so it is not enough to look whether they
have been: here they cannot be.
"""

import importlib
import pkgutil
import sys

MISSING = sys.argv[1:]
sys.modules.update(dict.fromkeys(MISSING))

import bnref  # noqa: E402

for each in pkgutil.walk_packages(bnref.__path__, "bnref."):
    importlib.import_module(each.name)
assert [each for each in MISSING if sys.modules[each] is not None] == []
