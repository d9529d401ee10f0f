"""Tasks of lm-evaluation-harness (EleutherAI, `pip install nse-plugin[eval]`) on a loaded model.

Loading the tasks and running them are separate steps, so that a misspelt name or missing data stops a run before the
model is loaded, not after an hour of measuring.
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

# The tasks that the authors of NSE measure, 100 items each. Their "nli" is MNLI according to the paper, but the data
# file of their code contains pairs from RTE's training split.
PAPER = ("sst2", "mrpc", "mmlu", "rte", "cola", "mnli")
PAPER_ITEMS = 100
STDERR_RESAMPLES = 1000  # of the harness' bootstrap, for the standard errors of metrics that are not means
FEWSHOT_SEED = 1234  # the harness' default
COLUMNS = ["task", "subject", "metric", "n", "value", "stderr"]
_NOISY_LOGGERS = ("lm_eval", "huggingface_hub", "datasets", "httpx")


class TaskError(ValueError):
    """A task of lm-evaluation-harness that cannot be run; the message names the task and the remedy."""


@dataclass(frozen=True)
class HarnessTask:
    """A task, group or tag with its data.

    found: the harness' own objects, as `lm_eval.evaluate` takes them. places: the indices of the items to evaluate, by
    the name of each task that it contains.
    """

    name: str
    found: dict[str, Any]
    places: dict[str, Sequence[int]]


def load_tasks(names: Sequence[str], limit: int | None = None) -> list[HarnessTask]:
    """Find tasks, groups or tags by name, or a task's YAML file, and load their data (from the hub, or its cache).

    limit: at most this many items per name, evenly spaced over all its items, but at least one per subject (the
    harness' own `limit` takes the first items of each subject); None: all items.
    Raises TaskError if the harness is not installed, a task is unknown, or its data cannot be loaded.
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
        manager = TaskManager(include_defaults=not files.issuperset(names))  # indexing 14,000 files takes ten seconds
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
    tasks, groups = found["tasks"], [*found["groups"].values()]  # the first group contains all others
    starts = [0, *accumulate(len(task.eval_docs) for task in tasks.values())]
    chosen = evenly_spaced(starts[-1], limit)
    places: dict[str, Sequence[int]] = {}
    for task, start, end in zip(tasks, starts, starts[1:], strict=False):
        # The harness reads an empty list as all items, and looks up every item in a complete list.
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
    """Run tasks as they are configured, zero-shot unless the task sets a number of examples. Probabilities are computed
    in float32 whatever the model's precision, because choices would tie in bfloat16.

    Returns one row per task, subject and metric: task, subject ("all", or a task within a group), metric (acc, mcc,
    ...), n (number of items), value, stderr (NaN if the harness gives none).
    If the model gives a log-likelihood of NaN in a task, all values of that task are NaN: the harness itself counts
    such an item as answered with the first choice, which looks like chance.
    The model's weights, the tokenizer and torch's random generator are unchanged.
    """
    frames = [_evaluated(model, tokenizer, task, batch_size) for task in tasks]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _evaluated(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: HarnessTask, batch_size: int
) -> pd.DataFrame:
    from lm_eval import evaluate  # unlike `simple_evaluate`, it neither seeds every generator nor calls git and pip
    from lm_eval.models.huggingface import HFLM

    own_tokenizer = copy.deepcopy(tokenizer)  # the harness sets its pad token
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
    """Return a list that collects every log-likelihood which the harness' model `lm` returns from now on."""
    likelihoods: list[float] = []
    own = lm.loglikelihood

    def loglikelihood(*arguments: object, **named: object) -> Any:
        answers = own(*arguments, **named)
        likelihoods.extend(score for score, _ in answers)
        return answers

    lm.loglikelihood = loglikelihood
    return likelihoods


def _score_rows(task: HarnessTask, results: dict[str, Any]) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Yield rows of `COLUMNS`: the task's own metrics, then those of its subjects; groups within it are left out."""
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
    """Silence the loggers of the harness and of the libraries it loads data with; errors are still raised."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
