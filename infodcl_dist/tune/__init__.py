"""Sweeps: search spaces, the study folder, one trial as a group of workers, Ray Tune around them, results and plots."""
