"""Second moments C0 = E[k k^T] of the edited layers: measure, store and load them."""
