"""Load each data set, downloading what can be, and print one line for each."""

from ._loading import from_first_source
from ._registry import REGISTRY

if __name__ == "__main__":
    for name in REGISTRY:
        print(from_first_source(name))
