#!/usr/bin/env bash
# Sweep the two hyperparameters of NSE that, according to the paper, need tuning for every model: 30 combinations on 100
# facts, which compute the values z only once. Further arguments are passed to `nse sweep`:
#   examples/sweep_p_alpha.sh model=gpt-j-6B hydra/launcher=submitit_slurm
#   examples/sweep_p_alpha.sh data.source=counterfact.json out=results/mine
set -euo pipefail
nse sweep nse.p=0.5,0.6,0.7,0.8,0.9,1.0 nse.alpha=1,2,5,10,20 facts=100 round=10 "$@"
