"""A model edited round after round: `EditSession`, the rounds' history, and what lasts between rounds."""

from nse_plugin.session.session import EditSession

__all__ = ["EditSession"]
