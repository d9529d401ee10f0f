"""Texts that the models generated after some prompts, with the answers marked."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.experiments.report.results import Results, at_last_checkpoint, in_order

SHOWN = 5  # prompts whose texts are shown
LENGTH = 320  # characters of each text


def texts_of(results: Results) -> list[dict[str, object]]:
    """Return some evenly spaced prompts, with the text that each method's final model generated after them."""
    texts = at_last_checkpoint(results.measured(results.texts)).drop_duplicates(["method", "case_id", "prompt"])
    methods = texts.groupby(["case_id", "prompt"], sort=False)["method"].nunique()
    prompts = methods[methods == methods.max()].reset_index().drop_duplicates("case_id")
    targets = results.facts.drop_duplicates("case_id").set_index("case_id")[["target_true", "target_new"]].fillna("")
    chosen = []
    for place in evenly_spaced(len(prompts), SHOWN) if len(prompts) else ():
        case, prompt = prompts["case_id"].iloc[place], prompts["prompt"].iloc[place]
        old, new = targets.loc[case]
        own = texts[(texts["case_id"] == case) & (texts["prompt"] == prompt)].set_index("method")["text"]
        written = {name: _marked(_continuation(own[name], prompt), new, old) for name in in_order(own.index)}
        chosen.append({"prompt": prompt, "old": old, "new": new, "written": written})
    return chosen


def _continuation(text: str, prompt: str) -> str:
    """Return the text after the prompt, on one line, cut at a word if it is longer than `LENGTH`."""
    written = " ".join(text.removeprefix(prompt).split())
    return written if len(written) <= LENGTH else written[:LENGTH].rsplit(" ", 1)[0] + "\N{NO-BREAK SPACE}…"


def _marked(text: str, new: str, old: str) -> Markup:
    """Escape a text, and mark the new and the old answer wherever they occur as whole words."""
    classes = {answer: kind for answer, kind in ((old, "old"), (new, "new")) if answer}
    if not classes:
        return escape(text)
    answers = "|".join(re.escape(answer) for answer in sorted(classes, key=len, reverse=True))
    pieces = re.split(rf"(?<!\w)({answers})(?!\w)", text)  # every second one is an answer
    return Markup("").join(
        Markup('<mark class="{}">{}</mark>').format(classes[piece], piece) if index % 2 else piece
        for index, piece in enumerate(pieces)
    )
