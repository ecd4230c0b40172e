"""The interaction graph: CSR, similarity and propagation."""
