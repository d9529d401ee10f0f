"""How long NSE takes here, beside the peers' ways: `python -m benchmarks`."""
