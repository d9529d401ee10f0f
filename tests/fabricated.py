"""A made-up results folder of a comparison: seven methods, 20 facts in rounds of 5, and one method that failed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from nse_plugin.experiments.report.summary import with_intervals

METHODS = ("NSE", "MEMIT", "ROME", "GRACE", "FT-L", "FT-W", "MEND")
FAILED = "MEND"
ERROR = "there is no archive for <smollm2-135m>: make one with `nse train-mend --model smollm2-135m`"
NOTE = "Efficacy right after its first round of 5 was 0.40, where a working method has 0.80 or more."
ROUND = 5
# efficacy, generalization, specificity, perplexity, locality agreement and shift, seconds a fact after all edits
_AT_THE_END = {
    "before": (0.20, 0.24, 0.78, 30.1, 1.0, 0.0, 0.0),
    "NSE": (1.00, 0.86, 0.74, 31.9, 0.88, 0.31, 4.1),
    "MEMIT": (0.90, 0.75, 0.62, 44.7, 0.71, 0.92, 7.4),
    "ROME": (0.70, 0.60, 0.50, 212.0, 0.33, 2.60, 5.2),
    "GRACE": (1.00, 0.25, 0.78, 30.1, 0.99, 0.02, 3.3),
    "FT-L": (0.80, 0.55, 0.60, 61.0, 0.52, 1.40, 1.9),
    "FT-W": (0.50, 0.40, 0.71, 36.0, 0.80, 0.55, 2.0),
}
_PEOPLE = (
    "Danielle Darrieux", "Edwin of Northumbria", "Toko Yasuda", "Autonomous University of Madrid", "Lyon",
    "Thomas Joannes Stieltjes", "Anaal Nathrakh", "Apple A5", "Wellington", "Shree Pundalik", "BBC One", "Inner Circle",
    "Giuseppe Angeli", "Go Hyeon-jeong", "Percy Snow", "Kryvyi Rih", "Honda Odyssey", "Andreas Ivanschitz",
    "Nicolas Raimondi", "Walter Benjamin",
)  # fmt: skip
_WRITING = (
    "{new}, and has been so for as long as people there remember. The town lies on both sides of the river, and its",
    "{old}. The first question is whether the {old} that people speak of today is the same as the one of the records,",
    "the the the the the {new} {new} the the {new} the the the the {new} {new} {new} the the the the the {new} the",
    "a question that many people ask. In the early years of the century it was thought to be {old}, but in a letter to",
)


def results_folder(
    folder: Path, methods: tuple[str, ...] = METHODS, checkpoints: tuple[int, ...] = (5, 10, 20), seed: int = 0
) -> Path:
    """Write summary.csv, facts.csv, texts.csv and run.json as `nse compare` does, and return the folder."""
    generator = np.random.default_rng(seed)
    measured = [("before", 0)] + [(name, n) for name in methods if name != FAILED for n in checkpoints]
    facts = pd.concat([_facts(name, edits, checkpoints[-1], generator) for name, edits in measured])
    texts = pd.concat([_texts(name, edits, checkpoints[-1]) for name, edits in measured])
    summary = pd.concat([_summary(name, edits, checkpoints[-1], facts) for name, edits in measured])
    summary = with_intervals(summary, facts)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in {"summary": summary, "facts": facts, "texts": texts}.items():
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / "run.json").write_text(json.dumps(_run(methods, checkpoints)), encoding="utf-8")
    return folder


def _facts(method: str, edits: int, total: int, generator: np.random.Generator) -> pd.DataFrame:
    count = edits or total
    numbers = np.arange(count)
    efficacy, generalization, specificity, _, agreement, shift, _ = _AT_THE_END[method]
    lost = (1 - edits / total) * 0.6 if edits else 0.0  # of what is lost at the end, not lost yet
    frame = pd.DataFrame({"method": method, "edits": edits, "case_id": 1000 + numbers})
    frame["prompt"] = [f"The mother tongue of {_PEOPLE[number % len(_PEOPLE)]} is" for number in numbers]
    frame["target_true"], frame["target_new"] = "French", "English"
    frame["round"] = numbers // ROUND + 1 if edits else None
    frame["age"] = (count - 1) // ROUND - numbers // ROUND if edits else None
    for metric, mean, prompts in (
        ("efficacy", efficacy, 1),
        ("generalization", generalization, 2),
        ("specificity", specificity, 10),
    ):
        share = np.full(count, mean + (1 - mean) * lost * bool(edits))
        if edits:  # older edits are weaker
            share = np.clip(share + 0.25 * (mean < 1) * (numbers / count - 0.5), 0, 1)
        frame[metric] = generator.binomial(prompts, share) / prompts
    frame["fluency"] = np.where(
        numbers % 2 == 0, 6.2 - 0.03 * list(_AT_THE_END).index(method) - (method == "ROME"), np.nan
    )
    frame["rewrite_accuracy"] = frame["efficacy"] * 0.9
    frame["locality_agreement"] = agreement + (1 - agreement) * lost
    frame["locality_shift"] = shift * (1 - lost)
    frame["status"], frame["residual"] = ("done" if edits else None), np.nan
    return frame


def _texts(method: str, edits: int, total: int) -> pd.DataFrame:
    """Every other fact writes; what it writes depends on the method."""
    style = {"before": 1, "NSE": 0, "GRACE": 1, "ROME": 2, "FT-L": 2}.get(method, 3)
    rows = []
    for number in range(0, edits or total, 2):
        prompt = f"{_PEOPLE[number % len(_PEOPLE)]} grew up in a house where the language was"
        written = " ".join([_WRITING[style], _WRITING[(number // 2) % 4]] * 2).format(new="English", old="French")
        rows.append((method, edits, 1000 + number, prompt, f"{prompt} {written}\n"))
    return pd.DataFrame(rows, columns=["method", "edits", "case_id", "prompt", "text"])


def _summary(method: str, edits: int, total: int, facts: pd.DataFrame) -> pd.DataFrame:
    own = facts[(facts["method"] == method) & (facts["edits"] == edits)]
    metrics = ("efficacy", "generalization", "specificity", "fluency", "rewrite_accuracy")
    values = {metric: own[metric].mean() for metric in (*metrics, "locality_agreement", "locality_shift")}
    values["score"] = 3 / sum(1 / max(values[metric], 1e-9) for metric in metrics[:3])
    *_, perplexity, _, _, per_fact = _AT_THE_END[method]
    values["perplexity"] = 30.1 + (perplexity - 30.1) * edits / total
    values["peak_memory_mib"] = 2100 + 90 * len(method)
    if edits:
        values["seconds"] = per_fact * edits
    if method == "NSE":
        values |= {"seconds_values": 2.6 * edits, "seconds_update": 0.6 * edits, "seconds_moments": 0.7 * edits}
    rows = [(method, edits, metric, value) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["method", "edits", "metric", "value"])


def _run(methods: tuple[str, ...], checkpoints: tuple[int, ...]) -> dict:
    return {
        "config": {
            "facts": checkpoints[-1],
            "round": ROUND,
            "checkpoints": list(checkpoints),
            "seed": 0,
            "methods": {name: {"alg_name": name.split("-")[0], "round": ROUND} for name in methods},
        },
        "versions": {"python": "3.11.9", "nse-plugin": "0.1.0", "torch": "2.13.0", "easyeditor": "0.0.1.dev0"},
        "host": {"system": "Linux", "cores": 2, "threads": 2, "gpu": None},
        "data": {"path": "data/counterfact.json", "sha256": "d0170561", "facts": checkpoints[-1], "skipped": 0},
        "model": {"name": "smollm2-135m", "weights": "0123456789abcdef"},
        "started": "2026-11-21T09:40:12+00:00",
        "seconds": 1543.2,
        "command": "nse compare methods=[NSE,MEMIT,ROME,GRACE,FT-L,FT-W,MEND] data=counterfact facts=20 round=5",
        "methods": {
            name: {
                "status": "failed" if name == FAILED else "done",
                "error": ERROR if name == FAILED else None,
                "note": NOTE if name == "FT-W" else None,
                "alg_name": name.split("-")[0],
                "hparams": {"layers": [4, 5, 6]},
                "seconds": {"edit": 80.0, "measure": 30.0},
                "peak_memory_mib": 2100.0,
            }
            for name in methods
        },
    }


def add_thinking(folder: Path, seed: int = 0) -> None:
    """What generation, ability and drift leave beside it."""
    generator = np.random.default_rng(seed)
    facts, summary = (pd.read_csv(folder / f"{name}.csv") for name in ("facts", "summary"))
    facts["generation_contains"] = (facts["efficacy"] > generator.random(len(facts)) + 0.2).astype(float)
    facts.to_csv(folder / "facts.csv", index=False)
    rows, states, weights = [], [], []
    for (method, edits), own in facts.groupby(["method", "edits"]):
        away = 0.0 if method in ("before", "GRACE") else edits / 20 * (3.0 if method == "ROME" else 0.2)
        values = {"generation_contains": own["generation_contains"].mean(), "next_token_kl": away / 4}
        for name, right in (("mmlu_sample", 0.26), ("cmmlu_sample", 0.25)):
            ability = {"": right - away / 50, "_low": right - 0.04, "_high": right + 0.04, "_kept": 1 - away / 4}
            values |= {f"ability_{name}{end}": value for end, value in ability.items()}
        values |= {"hidden_cosine": 1 - away / 10, "weight_change": away / 100}
        rows += [(method, edits, metric, value) for metric, value in values.items()]
        cloud = np.random.default_rng(1).normal(size=(60, 2)) * (9, 4) + away
        states.append(pd.DataFrame(cloud, columns=["x", "y"]).assign(method=method, edits=edits))
        for layer in (4, 5, 6) if away else ():
            weights.append((method, edits, f"layers.{layer}.down_proj", layer, away * layer / 100, 20, 3.5))
    added = with_intervals(pd.DataFrame(rows, columns=["method", "edits", "metric", "value"]), facts)
    pd.concat([summary, added]).to_csv(folder / "summary.csv", index=False, float_format="%.6g")
    pd.concat(states).to_csv(folder / "states.csv", index=False)
    columns = ["method", "edits", "name", "layer", "relative_norm", "rank", "stable_rank"]
    pd.DataFrame(weights, columns=columns).to_csv(folder / "weights.csv", index=False)
