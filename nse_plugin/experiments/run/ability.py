"""`nse ability`: general ability of a model before and after it was edited.

There are two sources of questions: tasks of lm-evaluation-harness, whose data come from the hub, and files of
multiple-choice questions, which need no network. Every mistake in them is reported before a model is loaded. Only one
model is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from nse_plugin.evaluation.ability.harness import PAPER, PAPER_ITEMS, HarnessTask, evaluate_tasks, load_tasks
from nse_plugin.evaluation.ability.multiple_choice import (
    ALL,
    Question,
    accuracy,
    answer_questions,
    kept,
    read_questions,
)
from nse_plugin.evaluation.intervals import Interval, normal_interval, wilson
from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.experiments.plan import BEFORE, ModelChoice, PlanError, inputs
from nse_plugin.experiments.record import Record, check_writable
from nse_plugin.experiments.report.columns import ABSENT, TO
from nse_plugin.models.loading import load
from nse_plugin.support.files import written_whole

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

PAPERS_TASKS = "paper"
COLUMNS = ["model", "task", "subject", "metric", "n", "value", "low", "high"]
SHARES = ("accuracy", "acc", "acc_norm", "exact_match")  # metrics that are shares: this package's, the harness'


@dataclass(frozen=True)
class AbilityTasks:
    """Items that models are asked. tasks: with their data. questions: by the name of their file."""

    tasks: list[HarnessTask]
    questions: Mapping[str, list[Question]]

    def __str__(self) -> str:
        items = {name: len(own) for name, own in self.questions.items()}
        items |= {task.name: sum(map(len, task.places.values())) for task in self.tasks}
        return ", ".join(f"{count} of {name}" for name, count in items.items())

    @classmethod
    def of(cls, tasks: Sequence[str], files: Sequence[str | Path], limit: int | None = None) -> AbilityTasks:
        """Read and check tasks and files of questions.

        tasks: names in lm-evaluation-harness, or "paper" for the tasks that the authors of NSE measure, with 100 items
        each. files: in the format of `read_questions`. limit: at most this many items of each task and file, evenly
        spaced; None: all. Raises PlanError, QuestionError, TaskError.
        """
        if not tasks and not files:
            raise PlanError("There is nothing to ask: name --tasks, or give --questions a file.")
        if limit is not None and limit < 1:
            raise PlanError(f"limit = {limit}: ask one item of each at least, or leave it out for all.")
        names = [Path(file).stem for file in files]
        if twice := {name for name in names if names.count(name) > 1}:
            raise PlanError(f"Two files of questions are named {min(twice)!r}: rename one, results go by that name.")
        read = {name: read_questions(file) for name, file in zip(names, files, strict=True)}
        questions = {name: [own[place] for place in evenly_spaced(len(own), limit)] for name, own in read.items()}
        if both := sorted({*names} & {*tasks, *(PAPER if PAPERS_TASKS in tasks else ())}):
            raise PlanError(f"A file of questions and a task are both named {both[0]!r}: rename the file.")
        if PAPERS_TASKS in tasks:
            tasks = [name for task in tasks for name in (PAPER if task == PAPERS_TASKS else [task])]
            limit = PAPER_ITEMS if limit is None else limit
        return cls(load_tasks(list(dict.fromkeys(tasks)), limit), questions)

    def scores(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        """Return the scores of a model (`COLUMNS` without model), and its answers to each file of questions."""
        answers = {name: answer_questions(model, tokenizer, own) for name, own in self.questions.items()}
        frames = [_tidy(accuracy(frame), name, "accuracy") for name, frame in answers.items()]
        of_tasks = evaluate_tasks(model, tokenizer, self.tasks)
        ends = [_interval(*row) for row in of_tasks[["metric", "value", "stderr", "n"]].itertuples(index=False)]
        of_tasks = of_tasks.assign(low=[low for low, _ in ends], high=[high for _, high in ends])
        return _concatenated([*frames, of_tasks[COLUMNS[1:]]]), answers


def edited_folders(edited: Sequence[str | Path]) -> dict[str, Path]:
    """Return the folders of edited models, as written by `save_pretrained`, by their names in the results.

    Raises PlanError if a folder has no model or no tokenizer, or if a name is already taken. Only file names are
    checked: loading finds other errors.
    """
    folders: dict[str, Path] = {}
    for folder in map(Path, edited):
        name = folder.resolve().name
        if name in folders or name == BEFORE:
            raise PlanError(f"--edited {folder}: results go by the folder's name, and {name!r} is taken: rename it.")
        files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if "config.json" not in files:
            raise PlanError(f"--edited {folder} holds no model: write one there with `model.save_pretrained`.")
        if not files & {"tokenizer.json", "tokenizer_config.json"}:
            raise PlanError(f"--edited {folder} holds no tokenizer: write it there with `tokenizer.save_pretrained`.")
        folders[name] = folder
    return folders


def ability(
    model: ModelChoice,
    edited: Mapping[str, Path],
    ability_tasks: AbilityTasks,
    out: str | Path,
    report_progress: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Measure the unedited model, then each edited one (from `edited_folders`), and write these files to `out`:

    ability.csv: one row per model ("before", or the folder's name), task, subject ("all", then each) and metric, with
    the number of items n, the value, and its 95% interval low to high. The metric `kept` of a file of questions is the
    share that the edited model answers as the unedited one does. answers.csv: each question of the files, with the
    answer. asked.json: the inputs that the results depend on.

    A folder with results of other models or questions is left unchanged. Returns the frame of ability.csv. Raises
    PlanError for such a folder, and whatever loading raises.
    """
    tasks = {task.name: sum(map(len, task.places.values())) for task in ability_tasks.tasks}
    check_writable(Path(out))
    Record(Path(out)).open_for(inputs.of_ability(model, edited, ability_tasks.questions, tasks))
    found: list[pd.DataFrame] = []
    answers: list[pd.DataFrame] = []
    reference: dict[str, pd.DataFrame] = {}
    for number, name in enumerate([BEFORE, *edited]):
        report_progress(f"{name}: model {number + 1} of {len(edited) + 1}, {ability_tasks}")
        source = model.source if name == BEFORE else str(edited[name])
        scores, given = ability_tasks.scores(*load(source, model.dtype, model.device))  # freed before the next load
        reference = reference or given
        if name != BEFORE:
            same = [_tidy(kept(own, reference[task]), task, "kept") for task, own in given.items()]
            scores = _concatenated([scores, *same])
        found.append(scores.assign(model=name)[COLUMNS])
        for task, own in given.items():
            answered = own.assign(model=name, task=task, question=range(len(own)))
            answers.append(answered[["model", "task", "question", *own.columns]])
        written = {"ability.csv": found, **({"answers.csv": answers} if answers else {})}
        for file, frames in written.items():  # after every model: the next may take an hour, or fail to load
            with written_whole(Path(out) / file) as path:
                _concatenated(frames).to_csv(path, index=False, float_format="%.6g")
    return _concatenated(found)


def ability_table(frame: pd.DataFrame) -> Table:
    """Format a frame of `ability` for the terminal: one row per task, metric and edited model. Subjects have their own
    rows only if the task has no mean over them."""
    table = Table()
    for title in ("Task", "Metric", "n", "Before", "Model", "After", "Kept"):
        narrow = title not in ("Task", "Model")  # names are wrapped if there is no room, numbers never
        table.add_column(title, justify="right" if title == "n" else "left", no_wrap=narrow, overflow="fold")
    over_all = set(frame.loc[frame["subject"] == ALL, "task"])
    shown = frame[(frame["subject"] == ALL) | ~frame["task"].isin(over_all)]
    rows = {(row["model"], row["task"], row["subject"], row["metric"]): row for row in shown.to_dict("records")}
    models = [name for name in dict.fromkeys(frame["model"]) if name != BEFORE]
    for (name, task, subject, metric), row in rows.items():
        if name != BEFORE:
            continue
        label = task if subject == ALL else f"{task}: {subject}"
        for edited in models or [ABSENT]:
            after = rows.get((edited, task, subject, metric))
            same = rows.get((edited, task, subject, "kept")) if metric == "accuracy" else None
            table.add_row(label, metric, str(row["n"]), _shown(row), edited, _shown(after), _shown(same))
    return table


def _shown(row: Mapping[Any, Any] | None) -> str:
    """Format a value: shares in percent, with their interval; other metrics as they are."""
    if row is None or math.isnan(row["value"]):
        return ABSENT
    if row["metric"].partition(" ")[0] not in (*SHARES, "kept"):
        return f"{row['value']:.3f}"
    return f"{100 * row['value']:.1f} ({100 * row['low']:.0f}{TO}{100 * row['high']:.0f})"


def _tidy(shares: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    return shares.rename(columns={metric: "value"}).assign(task=task, metric=metric)[COLUMNS[1:]]


def _concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _interval(metric: str, value: float, stderr: float, n: int) -> Interval:
    """Return Wilson's interval for a share of n items, and the normal interval for other metrics."""
    return wilson(value, n) if metric.partition(" ")[0] in SHARES else normal_interval(value, stderr)
