"""A session's folder: its files, and how a model is brought to the last round in it."""
