"""Models in GGUF files, as llama.cpp serves them."""
