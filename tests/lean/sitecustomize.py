"""Python runs this at the start of each process whose PYTHONPATH names this folder.

Keras and TensorFlow import these packages where they are installed, and need none of them: about
half of the processor time that ``import bnref`` takes. Here they are as if nobody had installed
them.
"""

import sys

sys.modules.update(dict.fromkeys(["jax", "matplotlib", "pandas", "scipy", "sklearn"]))
