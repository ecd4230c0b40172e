"""From interaction files to a dataset folder, and from the folder back to arrays."""
