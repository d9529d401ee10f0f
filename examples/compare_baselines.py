"""NSE next to sequential MEMIT and fine-tuning, from Python; the result is a pandas DataFrame.

    python examples/compare_baselines.py [SETTING=VALUE ...]

SETTING=VALUE: any of `nse compare --help`, e.g. facts=20 methods=[NSE,ROME] model=gpt2-xl data.source=facts.json.
"""

import sys

from nse_plugin.experiments.run.comparison import compare

summary = compare(
    "data=demo",  # the 60 facts that come with the package; data=counterfact, or data.source=FILE
    "facts=10",
    "round=5",
    "methods=[NSE,sequential-MEMIT,FT-L]",
    "metrics=[probability,perplexity]",
    "out=results/compare_baselines",  # tables, plots and report.html; a second run goes on where the first ended
    *sys.argv[1:],
)

# A row per method, number of edits, and metric: pivot as you like.
final = summary[summary["edits"].isin([0, summary["edits"].max()])]
print(final.pivot(index="method", columns="metric", values="value").round(3).to_string())
