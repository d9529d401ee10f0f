"""`nse demo`: edit the embedded model, round after round, and measure the result."""
