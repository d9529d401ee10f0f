"""Compute values z and second moments on many processes and hosts. The only package that imports ray.

Every worker loads the model once and receives shards of facts or of text. It returns its results to the calling
process, which writes them, so workers do not need access to its files. Each host of a cluster needs nse-plugin and the
model.
"""

from __future__ import annotations

try:
    import ray as _ray  # noqa: F401
except ImportError:
    raise ImportError("Work on several processes needs Ray: pip install 'nse-plugin[cluster]'.") from None
