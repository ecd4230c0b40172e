"""Training: one step, the loop around it, what is kept of a run. `python -m infodcl_dist.train` is torchrun's entry."""
