"""The command line: `nse demo`, `nse moments`, `nse values`, `nse compare`, `nse sweep`, `nse tune`, `nse ability`,
`nse train-mend`, `nse store`."""

from nse_plugin.cli.main import main

__all__ = ["main"]
