"""Check whether an edit holds when llama.cpp serves the model."""
