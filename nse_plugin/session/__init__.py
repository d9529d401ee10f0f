"""A model edited round after round: `EditSession`, the rounds' history, and what lasts between rounds."""

from nse_plugin.session.lock import SessionError
from nse_plugin.session.opening import read_columns, read_rounds
from nse_plugin.session.record import RoundRecord
from nse_plugin.session.session import EditSession

__all__ = ["EditSession", "RoundRecord", "SessionError", "read_columns", "read_rounds"]
