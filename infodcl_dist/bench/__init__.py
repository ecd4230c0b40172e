"""Figures of this machine: what a part of the work costs, beside what the machine can do at best."""
