"""Tasks of lm-evaluation-harness (EleutherAI, `pip install nse-plugin[eval]`) on a model that is loaded already.

Loading the tasks and running them are two steps, so that a misspelt name, or data that are not there, stop a user
before a model is loaded and not after an hour of measuring.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from nse_plugin.evaluation.ability.multiple_choice import ALL
from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.support.suggestions import did_you_mean

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# What the authors of NSE measure, 100 items each. Their "nli" is MNLI in the paper's words; the file of their code
# holds pairs of RTE's training split.
PAPER = ("sst2", "mrpc", "mmlu", "rte", "cola", "mnli")
PAPER_ITEMS = 100
STDERR_RESAMPLES = 1000  # in the harness' own bootstrap, for the standard error of a metric that is no mean
FEWSHOT_SEED = 1234  # the harness' own
COLUMNS = ["task", "subject", "metric", "n", "value", "stderr"]
_NOISY_LOGGERS = ("lm_eval", "huggingface_hub", "datasets", "httpx")


class TaskError(ValueError):
    """A task of lm-evaluation-harness that cannot be run; the message names it and the remedy."""


@dataclass(frozen=True)
class HarnessTask:
    """A task with its data.

    found: the harness' own objects, as `lm_eval.evaluate` takes them. places: of each task within it, by name, the
    items that are put to a model.
    """

    name: str
    found: dict[str, Any]
    places: dict[str, Sequence[int]]


def load_tasks(names: Sequence[str], limit: int | None = None) -> list[HarnessTask]:
    """Find tasks, groups or tags by name, or a task's YAML file, and load their data (from the hub, or its cache).

    limit: at most this many items of each name, evenly spaced over all it holds, and one of each subject at least (the
    harness' own `limit` takes the first of each subject); None: all.
    Raises TaskError when the harness is not installed, a task is not known, or its data cannot be had.
    """
    if not names:
        return []
    if importlib.util.find_spec("lm_eval") is None:
        raise TaskError(
            f"Tasks {', '.join(names)} need lm-evaluation-harness: install it with `pip install nse-plugin[eval]`, or "
            "give questions of your own with --questions."
        )
    from lm_eval.tasks import TaskManager

    files = {name for name in names if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()}
    with _quiet():
        manager = TaskManager(include_defaults=not files.issuperset(names))  # an index of 14,000 files: ten seconds
        for name in names:
            if name not in files and name not in manager.all_tasks:
                hint = did_you_mean(name, manager.all_tasks, "`lm-eval ls tasks` lists those that there are.")
                raise TaskError(f"Task {name!r} is not one of lm-evaluation-harness: {hint}")
        return [_loaded(manager, name, limit, name in files) for name in names]


def _loaded(manager: Any, name: str, limit: int | None, is_file: bool) -> HarnessTask:
    try:
        found = manager.load([name])
    except ImportError as error:
        raise TaskError(f"Task {name!r} needs another package: {' '.join(str(error).split()):.200}") from error
    except (OSError, ValueError, RuntimeError, TypeError, yaml.YAMLError) as error:
        if is_file:
            reason = " ".join(str(error).split())
            raise TaskError(f"Task file {name} cannot be used ({reason:.200}): mend it, or its data files.") from error
        raise TaskError(
            f"The data of task {name!r} cannot be had ({' '.join(str(error).split()):.200}): load them once with a "
            "network, and later runs find them in the Hugging Face cache (HF_HOME); or give --questions a file."
        ) from error
    tasks, groups = found["tasks"], [*found["groups"].values()]  # of groups, the first holds all others
    starts = [0, *accumulate(len(task.eval_docs) for task in tasks.values())]
    chosen = evenly_spaced(starts[-1], limit)
    places: dict[str, Sequence[int]] = {}
    for task, start, end in zip(tasks, starts, starts[1:], strict=False):
        # The harness takes an empty list for all there are, and looks every item up in a full one.
        own = [place - start for place in chosen if start <= place < end] or [0]
        places[task] = own if len(own) < end - start else range(end - start)
    own_name = groups[0].name if groups else next(iter(tasks)) if len(tasks) == 1 else name
    for task in tasks.values():
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return HarnessTask(own_name, found, places)


def evaluate_tasks(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[HarnessTask], batch_size: int = 8
) -> pd.DataFrame:
    """Run tasks as they are configured, without examples where they ask for none. Probabilities are computed in float32
    whatever the model's precision: in bfloat16 choices would tie.

    A row per task, subject and metric: task, subject ("all", or a task within a group), metric (acc, mcc, ...), n
    items, value, stderr (NaN where the harness gives none).
    Of a model that gives a log-likelihood of NaN nothing is known, and all its values are NaN: the harness itself takes
    such an item as answered by the first choice, which looks like chance.
    The model's weights, the tokenizer and torch's random generator are left as they were.
    """
    frames = [_evaluated(model, tokenizer, task, batch_size) for task in tasks]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _evaluated(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: HarnessTask, batch_size: int
) -> pd.DataFrame:
    from lm_eval import evaluate  # `simple_evaluate` seeds every generator, and asks git and pip after each task
    from lm_eval.models.huggingface import HFLM

    own_tokenizer = copy.deepcopy(tokenizer)  # it is given a pad token
    with _quiet():
        lm = HFLM(pretrained=model, tokenizer=own_tokenizer, batch_size=batch_size, softmax_dtype="float32")
        likelihoods = _noted(lm)
        results = evaluate(
            lm=lm,
            task_dict=task.found,
            samples=task.places,
            log_samples=False,
            bootstrap_iters=STDERR_RESAMPLES,
        )
    frame = pd.DataFrame(_score_rows(task, results), columns=COLUMNS)
    return frame.assign(value=math.nan, stderr=math.nan) if any(map(math.isnan, likelihoods)) else frame


def _noted(lm: Any) -> list[float]:
    """The log-likelihoods that a model of the harness will give from now on, as they come."""
    likelihoods: list[float] = []
    own = lm.loglikelihood

    def loglikelihood(*arguments: object, **named: object) -> Any:
        answers = own(*arguments, **named)
        likelihoods.extend(score for score, _ in answers)
        return answers

    lm.loglikelihood = loglikelihood
    return likelihoods


def _score_rows(task: HarnessTask, results: dict[str, Any]) -> Iterator[tuple[str, str, str, int, float, float]]:
    """The task's own numbers, then its subjects'; those of groups within it are left out."""
    together = {**results["results"], **results.get("groups", {})}
    alone = len(task.places) == 1
    for name in [task.name, *(name for name in task.places if name != task.name)]:
        of_all = name == task.name or alone
        n = sum(map(len, task.places.values())) if of_all else len(task.places[name])
        for key, value in together.get(name, {}).items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = together[name].get(f"{metric}_stderr,{filtered}")
            shown = metric if filtered == "none" else f"{metric} ({filtered})"
            error = float(stderr) if isinstance(stderr, int | float) else math.nan
            yield task.name, ALL if of_all else name, shown, n, float(value), error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the harness and what it loads data with: what goes wrong is raised, the rest is news, line by line."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
