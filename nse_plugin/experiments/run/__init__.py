"""Comparisons, sweeps and tuning, run: processes, records of them, and what is shown meanwhile."""
