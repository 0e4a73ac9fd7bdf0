"""The batch norms of any Keras model, seen alike: bnref's, Keras's and tf_keras's.

`find` lists them, with their answers to the three questions; `bnref.population.recompute`,
`bnref.folding.fold_model` and `bnref.doctor` stand on what it gives, and know no library.
"""

from bnref.norms._finding import find
from bnref.norms._norm import Norm

__all__ = ["Norm", "find"]
