"""A session's folder: what is in it, and how a model is brought to its last round."""
