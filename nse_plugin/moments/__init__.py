"""Second moments C0 = E[k k^T] of the edited layers: measured, kept and found again."""
