#!/usr/bin/env bash
# NSE's two hyperparameters that the paper says need tuning for every model, on 100 facts: 30 cells for the z of one.
# Whatever is given goes to `nse sweep` too:
#   examples/sweep_p_alpha.sh model=gpt-j-6B hydra/launcher=submitit_slurm
#   examples/sweep_p_alpha.sh data.source=counterfact.json out=results/mine
set -euo pipefail
nse sweep nse.p=0.5,0.6,0.7,0.8,0.9,1.0 nse.alpha=1,2,5,10,20 facts=100 round=10 "$@"
