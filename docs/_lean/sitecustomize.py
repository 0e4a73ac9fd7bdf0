"""Python runs this at the start of each process whose PYTHONPATH names this folder.

Keras and TensorFlow import these packages where they are installed, and need none of them: 1.6 of
the 4.7 s of processor time that ``import bnref.training`` takes, and 200 MB. Here they are as if
nobody had installed them. The processes that pages and tests start have this folder.
"""

import sys

sys.modules.update(dict.fromkeys(["jax", "pandas", "scipy", "sklearn"]))
