"""The HTML page of a comparison, with its figures, texts and tables."""
