"""Values z and second moments on many processes and hosts at once. The only room that imports ray.

Every worker loads the model once and is handed shards of facts or of text; what it computes returns to the process that
asked, which writes it: workers need no file of it. A host of a cluster needs nse-plugin and the model.
"""

from __future__ import annotations

try:
    import ray as _ray  # noqa: F401
except ImportError:
    raise ImportError("Work on several processes needs Ray: pip install 'nse-plugin[cluster]'.") from None
