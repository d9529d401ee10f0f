"""A session as one page to read."""
