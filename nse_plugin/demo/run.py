"""`nse demo`: write the same facts into SmolLM2-135M with NSE and with sequential MEMIT, through EasyEdit, and measure.

Each method edits a copy of the model, round after round, through EasyEdit's own `batch_edit`. All facts are scored on
the final model, so the scores show which edits survive the later rounds.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from nse_plugin.demo.report import Measurement, save_results, show_results
from nse_plugin.demo.stages import Stages
from nse_plugin.evaluation.metrics.fluency import continuations, text_entropy
from nse_plugin.evaluation.metrics.probability import score_facts
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.embedded import embedded_model, embedded_model_folder
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import moments_are_kept, second_moments
from nse_plugin.moments.storage import moments_folder
from nse_plugin.support.files import file_in_the_way

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROUND = 10  # facts per round
EVERY_SECOND = slice(1, None, 2)  # facts whose prompts are continued to texts of 100 tokens, for Fluency
# With these settings, NSE is sequential MEMIT: z on the edited model, all neurons, one pass, no protected keys.
SEQUENTIAL_MEMIT: dict[str, Any] = {"rewind": False, "p": 1.0, "max_iterations": 1, "accumulate": False}
# The demo does not save its models; the README's section "Keep" continues from here.
NEXT = """
Edits to keep, look at and undo, in the same model:
  nse edit --model embedded --session corrections --solver fast --fact "The capital of {} is" Japan Kyoto
  nse log --session corrections
  nse check --model embedded --session corrections
  nse rollback --session corrections"""


def run_demo(out: str | Path = "results/demo", console: Console | None = None) -> pd.DataFrame:
    """Run the demo on screen and write `summary.csv`, `facts.csv`, `efficacy_by_age.png` and `demo.log` into `out`.

    The model is converted and its second moments are measured only once, and saved in `$NSE_HOME` or
    `~/.cache/nse-plugin`. Everything is seeded. EasyEdit's own output goes to demo.log.

    Returns the summary: columns method, edits, metric, value.
    Raises ValueError if `out` is a file, EmbeddedModelError or ImportError if the model's package or EasyEdit is not
    installed.
    """
    out = Path(out).resolve()
    if file := file_in_the_way(out):
        raise ValueError(f"out = {str(out)!r} cannot be used: {file} is a file; name a folder.")
    console = console or Console(file=sys.stdout)  # a reference to stdout, because the stages redirect sys.stdout
    records = demo_records()
    facts = [Fact.from_record(record) for record in records]
    rounds = -(-len(facts) // ROUND)
    console.print(
        f"{len(facts)} facts in {rounds} rounds of {ROUND}, through EasyEdit, into SmolLM2-135M", style="bold"
    )
    with Stages(console, out / "demo.log") as stages:
        with stages("model") as note:
            converted = embedded_model_folder().is_dir()
            model, tokenizer = embedded_model()
            note(f"{'read from' if converted else 'converted into'} {shortened(embedded_model_folder())}")
        hparams = NSEHyperParams.for_model(model, batch_size=ROUND)
        memit = NSEHyperParams.for_model(model, preset="paper", solver="fast", batch_size=ROUND, **SEQUENTIAL_MEMIT)
        methods = {"NSE": hparams, "sequential MEMIT": memit}
        measurements = compare(model, tokenizer, facts, methods, stages)
        relations = {record["case_id"]: record["relation"] for record in records}
        summary = save_results(out, measurements, facts, relations)
    show_results(console, measurements, facts)
    console.print(f"\n{stages.total:.0f} s in all. Tables, plot and EasyEdit's own output: {shortened(out)}")
    console.print(NEXT, soft_wrap=True, markup=False, highlight=False)
    return summary


def demo_records() -> list[dict[str, Any]]:
    """Return the demo's facts as records for `Fact.from_record`, each with an additional field `relation`."""
    text = resources.files("nse_plugin.data").joinpath("demo_facts.json").read_text(encoding="utf-8")
    records: list[dict[str, Any]] = json.loads(text)
    return records


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    methods: dict[str, NSEHyperParams],
    stages: Stages,
) -> list[Measurement]:
    """Measure the unedited model ("before"), then a copy of it after each method's rounds.

    methods: hyperparameters by the name of the method. The model itself is never edited.
    """
    with stages("EasyEdit") as note:
        from nse_plugin.easyedit import register

        register()
        import easyeditor

        note(f"from {shortened(Path(easyeditor.__file__).parent)}")
    with stages("before: scored"):
        measurements = [measure("before", model, tokenizer, facts, edits=None)]
    with stages("second moments", has_bar=True) as note:
        note(measured_moments(model, tokenizer, next(iter(methods.values()))))
    for name, chosen in methods.items():
        edited = copy.deepcopy(model)
        with stages(f"{name}: edited") as note:
            edits = edit_in_rounds(edited, tokenizer, chosen, facts, note)
            counts = edits["status"].value_counts()
            note(", ".join(f"{count} {status}" for status, count in counts.items()))
        with stages(f"{name}: scored"):
            measurements.append(measure(name, edited, tokenizer, facts, edits))
    return measurements


def measured_moments(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> str:
    """Load or measure the second moments for all methods. Returns a note: which of the two, and their folder."""
    layout = Layout.of(model)
    kept = moments_are_kept(layout, tokenizer, hparams)
    second_moments(layout, tokenizer, hparams)
    return f"{'read from' if kept else 'measured, kept in'} {shortened(moments_folder(hparams))}"


def shortened(path: Path) -> str:
    """Shorten a path for display: relative to the working directory if inside it, else with `~` for the home folder."""
    for base, mark in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return f"{mark}{path.relative_to(base)}"
    return str(path)


def edit_in_rounds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    hparams: NSEHyperParams,
    facts: Sequence[Fact],
    note: Callable[[str], None],
) -> pd.DataFrame:
    """Edit the model in place with EasyEdit's `batch_edit`, in rounds of `hparams.batch_size` facts.

    note: called with a text about each round. Returns one row per fact: round (from 1) and the columns of a RoundReport
    except case_id.
    """
    from nse_plugin.easyedit import make_editor
    from nse_plugin.easyedit.algorithm import nse

    # EasyEdit creates a folder ./logs in the working directory when an editor is created
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as elsewhere, contextlib.chdir(elsewhere):
        editor = make_editor(model, tokenizer, hparams)
    starts = range(0, len(facts), hparams.batch_size)
    for number, start in enumerate(starts, 1):
        note(f"round {number} of {len(starts)}")
        chunk = facts[start : start + hparams.batch_size]
        editor.batch_edit(
            prompts=[fact.text for fact in chunk],
            target_new=[fact.target_new for fact in chunk],
            ground_truth=[fact.target_true for fact in chunk],
            subject=[fact.subject for fact in chunk],
            sequential_edit=True,
            verbose=False,
        )
    state = nse.state_of(model)
    assert state is not None
    frames = [report.frame.assign(round=number) for number, report in enumerate(state.reports, 1)]
    return pd.concat(frames, ignore_index=True).drop(columns="case_id")


def measure(
    method: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    edits: pd.DataFrame | None,
) -> Measurement:
    """Score all facts on the model in its current state, and let it continue every second fact's prompt.

    edits: the result of `edit_in_rounds`; None: the model is not edited.
    """
    writers = range(len(facts))[EVERY_SECOND]
    texts = dict(zip(writers, continuations(model, tokenizer, [facts[i].text for i in writers]), strict=True))
    scores = score_facts(model, tokenizer, facts)
    scores["fluency"] = pd.Series({index: text_entropy(text) for index, text in texts.items()})
    if edits is not None:
        scores = scores.join(edits)
    return Measurement(method, 0 if edits is None else len(facts), scores, texts)
