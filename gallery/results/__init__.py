"""Recorded sweeps and the scripts that record them; installed as ``bnref.recorded``."""
