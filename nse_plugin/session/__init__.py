"""Edit a model in rounds: `EditSession`, the history of its rounds, and the state kept between rounds."""

from nse_plugin.session.folder.lock import SessionError
from nse_plugin.session.folder.opening import read_columns, read_rounds
from nse_plugin.session.folder.record import RoundRecord
from nse_plugin.session.session import EditSession

__all__ = ["EditSession", "RoundRecord", "SessionError", "read_columns", "read_rounds"]
