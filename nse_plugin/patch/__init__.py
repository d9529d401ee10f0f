"""An edit as a file of its own: exactly the columns that changed, for this library and for other programs."""
