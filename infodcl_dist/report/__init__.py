"""Figures, tables and tests of significance from run folders. Reads what runs wrote; trains and evaluates nothing."""
