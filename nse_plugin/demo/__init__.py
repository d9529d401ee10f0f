"""`nse demo`: edits of the embedded model, round after round, and what they did."""
