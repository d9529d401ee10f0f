"""Other editing methods, run round after round through EasyEdit."""
