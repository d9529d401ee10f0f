"""Commands on a session's folder."""
