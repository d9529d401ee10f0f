"""Run comparisons, sweeps and tuning: processes, their records, and progress."""
