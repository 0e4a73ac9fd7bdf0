"""What the gallery's pages and sweeps need, and a reader's project does not: data, models, records.

Nothing is imported here, so that data sets and records come without TensorFlow.
"""

__all__ = []
