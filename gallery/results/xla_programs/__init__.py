"""Programs of TensorFlow that another runtime of XLA runs; for ``run_xla.py`` alone.

`written` needs TensorFlow and no JAX, `executed` needs JAX and no TensorFlow.
"""
