"""An edit as a file: exactly the columns that changed, for this library and for other programs."""
