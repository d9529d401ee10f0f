"""Facts from files and published benchmarks."""

from nse_plugin.facts.files.load import BUNDLED, DEMO, Loaded, load_facts
from nse_plugin.facts.files.published import PUBLISHED
from nse_plugin.facts.files.records import DatasetError

__all__ = ["BUNDLED", "DEMO", "PUBLISHED", "DatasetError", "Loaded", "load_facts"]
