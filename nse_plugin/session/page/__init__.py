"""A session as an HTML page."""
