"""CPU time of NSE in this package, compared with other implementations: `python -m benchmarks`."""
