"""The identity of a loaded model."""

from nse_plugin.models.identity.identity import ModelIdentity
from nse_plugin.models.identity.tensors import fingerprint

__all__ = ["ModelIdentity", "fingerprint"]
