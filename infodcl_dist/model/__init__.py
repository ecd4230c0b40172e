"""InfoDCL's mathematics: no files, no process group. Collectives it needs are handed in as functions."""
