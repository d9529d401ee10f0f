"""Compare NSE with sequential MEMIT and fine-tuning from Python; the result is a pandas DataFrame.

    python examples/compare_baselines.py [SETTING=VALUE ...]

SETTING=VALUE: a setting listed by `nse compare --help`, e.g. facts=20 methods=[NSE,ROME] model=gpt2-xl
data.source=facts.json.
"""

import sys

from nse_plugin.experiments.run.comparison import compare

summary = compare(
    "data=demo",  # the package's 60 facts; alternatives: data=counterfact, or data.source=FILE
    "facts=10",
    "round=5",
    "methods=[NSE,sequential-MEMIT,FT-L]",
    "metrics=[probability,perplexity]",
    "out=results/compare_baselines",  # tables, plots and report.html; running it again continues where it stopped
    *sys.argv[1:],
)

# One row per method, number of edits and metric: pivot it as you like.
final = summary[summary["edits"].isin([0, summary["edits"].max()])]
print(final.pivot(index="method", columns="metric", values="value").round(3).to_string())
