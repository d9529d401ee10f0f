"""The former place of `nse_plugin.facts.files`; its public names can still be imported from here."""

from nse_plugin.facts.files import PUBLISHED, DatasetError, Loaded, load_facts

__all__ = ["PUBLISHED", "DatasetError", "Loaded", "load_facts"]
