"""Other people's methods, run round after round through EasyEdit."""
