"""Thin commands: parse, build, call. Heavy packages are imported where a command uses them."""
