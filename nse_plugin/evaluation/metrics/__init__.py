"""What a model says of facts, measured: one idea a file."""
