"""Figures of comparisons and sweeps, with one function per figure."""
