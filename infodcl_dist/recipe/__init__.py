"""A whole run: its configuration, and the lines that build it."""
