"""Text generation."""

from nse_plugin.models.writing.sampling import uniform_draws, write

__all__ = ["uniform_draws", "write"]
