"""infodcl_dist: a distributed trainer for InfoDCL (KDD '26)."""

__version__ = "0.1.0"
