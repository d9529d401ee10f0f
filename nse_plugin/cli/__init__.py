"""The command line `nse`; `main` lists its commands."""

from nse_plugin.cli.main import main

__all__ = ["main"]
