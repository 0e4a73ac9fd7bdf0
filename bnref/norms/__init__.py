"""The batch norms of any Keras model, seen alike: bnref's, Keras's and tf_keras's.

`find` lists them, with their answers to the three questions; `bnref.population.recompute`,
`bnref.folding.fold_model` and `bnref.doctor` stand on what it gives, and know no library.
`inputs` has what each of them is given by a batch, and `convert` replaces them by another kind.
"""

from bnref.norms._converting import convert
from bnref.norms._finding import find
from bnref.norms._given import inputs
from bnref.norms._norm import Norm

__all__ = ["Norm", "convert", "find", "inputs"]
