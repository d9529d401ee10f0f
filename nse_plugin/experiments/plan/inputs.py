"""Everything that a result depends on: settings, contents of the files that they name, and versions of packages.

A name in a setting does not fix its content: a file of facts, a preset or a model's folder may change under its name.
So the settings are saved beside the results with the content of everything they name, and existing results are used
only if all of it is unchanged. `nse compare`, `nse sweep`, `nse tune` and `nse ability` all use this module.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import yaml

from nse_plugin.experiments.plan.checks import PlanError
from nse_plugin.experiments.plan.comparison import BEFORE, DataChoice, MethodChoice, Plan
from nse_plugin.experiments.plan.model import ModelChoice, base_of_adapter, model_config, source_folder, tuned_name
from nse_plugin.experiments.plan.presets import NSE, preset_of
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.support.progress import bar

if TYPE_CHECKING:
    from nse_plugin.experiments.plan.cell import CellPlan
    from nse_plugin.facts.files import Loaded

_OF_THE_UNEDITED = ("model", "data", "metrics", "facts", "seed")
# Files of a model's folder that transformers reads; other programs write files of their own there.
_MODEL_FILES = (
    "*.safetensors", "*.bin", "*.gguf", "*.h5", "*.msgpack", "*.pkl", "*.json", "*.model", "*.tiktoken", "*.bpe",
    "*.codes", "*.vocab", "*.txt", "*.jinja", "*_templates/*.jinja", "**/*.py",
)  # fmt: skip
_INDEX = "*.index.json"  # of a sharded model, whose shards may lie in subfolders
_MOMENTS = "moments in stats_dir"
_LARGE = 2**30  # bytes; reading a file of at least this size shows a progress bar
_CHUNK = 2**24
_SETTLED = 2.0  # seconds; a hash of a more recently changed file is not reused: its times may hide another change
_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{32,}\b")


# -- inputs of results ------------------------------------------------------------------------------------------------


def of_method(plan: Plan, name: str, facts: Loaded) -> dict[str, object]:
    """Return the inputs of one method of a comparison, or of the unedited model. facts: the plan's facts, as read."""
    asked = {**plan.what_decides(name), **_shared(plan.model, plan.data, plan.metrics, facts)}
    asked["version of easyeditor"] = _easyedit()
    return asked if name == BEFORE else {**asked, **_of_hparams(plan.methods[name], plan.model)}


def of_sweep(plan: CellPlan, facts: Loaded) -> dict[str, object]:
    """Return the inputs that all cells of a sweep have in common."""
    asked = {**plan.what_decides(), **_shared(plan.model, plan.data, plan.metrics, facts)}
    del asked["nse"]
    values = _preset_of_sweep(plan)
    named = _contents("preset", files_named(values))
    return {**asked, "values of the preset": values, **named, **_moments_named(values)}


def of_cell(plan: CellPlan, facts: Loaded) -> dict[str, object]:
    """Return the inputs of one cell of a sweep."""
    moments = _moments_named({**_preset_of_sweep(plan), **plan.nse})
    return {**of_sweep(plan, facts), "nse": dict(plan.nse), **_contents("nse", files_named(plan.nse)), **moments}


def of_reference(plan: CellPlan, facts: Loaded) -> dict[str, object]:
    """Return the inputs of a sweep's unedited model."""
    settings = {name: value for name, value in plan.what_decides().items() if name in _OF_THE_UNEDITED}
    return {**settings, **_shared(plan.model, plan.data, plan.metrics, facts)}


def of_ability(
    model: ModelChoice, edited: Mapping[str, Path], questions: Mapping[str, object], tasks: Mapping[str, object]
) -> dict[str, object]:
    """Return the inputs of `nse ability`. edited: folders of edited models, by name. questions: by the name of their
    file. tasks: number of items of each task."""
    return {
        "model": asdict(model),
        "questions": {name: _hash(repr(asked)) for name, asked in questions.items()},
        "tasks": dict(tasks),
        "content of model.source": model_content(model.source),
        **{f"content of {name}": model_content(str(folder)) for name, folder in edited.items()},
        **_versions(),
    }


def _shared(model: ModelChoice, data: DataChoice, metrics: Mapping[str, object], facts: Loaded) -> dict[str, object]:
    named = {"model.source": model_content(model.source), "data.source": content(facts.path)}
    if data.snippets is not None:
        named["data.snippets"] = content(Path(data.snippets).expanduser())
    return {
        **{f"content of {name}": value for name, value in named.items()},
        **_contents("metrics", files_named(metrics)),
        **_versions(),
    }


def _of_hparams(choice: MethodChoice, model: ModelChoice) -> dict[str, object]:
    """Return the values of a method's hyperparameters, and the contents of the files that they name."""
    path = preset_of(choice, model)
    values: dict[str, Any] = {} if path is None else _read_preset(choice, path)
    named = files_named({**values, **choice.hparams})
    if choice.alg_name == "MEND":
        from nse_plugin.baselines.mend import archive_path

        given = {"archive": None, "model_name": "", **values, **choice.hparams}
        archive = archive_path(SimpleNamespace(**given))
        named |= {"archive": content(archive)} if archive.is_file() else {}
    moments = _moments_named({**values, **choice.hparams})
    return {"values of the preset": values, **_contents("hparams", named), **moments}


def _read_preset(choice: MethodChoice, path: Path) -> dict[str, object]:
    if choice.alg_name == NSE:
        return NSEHyperParams.from_hparams(path).to_dict()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise PlanError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise PlanError(f"{path} holds no mapping: write one 'field: value' a line.")
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _preset_of_sweep(plan: CellPlan) -> dict[str, object]:
    """Return the values of a sweep's preset; empty for a model without a preset."""
    if plan.preset is not None:
        return NSEHyperParams.from_hparams(plan.preset).to_dict()
    config = model_config(plan.model.source)
    model = SimpleNamespace(config=config)
    return {} if tuned_name(config) is None else NSEHyperParams.for_model(model, preset="paper").to_dict()


# -- contents of files ------------------------------------------------------------------------------------------------


def files_named(settings: object, name: str = "") -> dict[str, str]:
    """Return the `content` of every file that a setting names, by the setting's name; in a list, by the setting's name
    and the file's. name: of the setting that contains `settings`, for nested settings."""
    found: dict[str, str] = {}
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            found |= files_named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list | tuple):
        for value in settings:
            found |= files_named(value, f"{name} {value}")
    elif isinstance(settings, str) and (path := Path(settings).expanduser()).is_file():
        found[name] = content(path)
    return found


def content(path: Path) -> str:
    """Return a file's size and SHA-256, as text. The file is read once per process, and again if it has changed."""
    stat = path.stat()
    state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED
    return (_content if settled else _content.__wrapped__)(path.resolve(), state)


@functools.lru_cache(maxsize=4096)
def _content(path: Path, state: tuple[int, ...]) -> str:
    """Hash a file. state: its size, times and inode when it is read, part of the cache key."""
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in _shown(path.name, state[0], iter(lambda: stream.read(_CHUNK), b"")):
            hashed.update(chunk)
    return f"{state[0]:,} bytes, sha256 {hashed.hexdigest()}"


def _shown(name: str, size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    if size < _LARGE:
        yield from chunks
        return
    with bar(f"checking {name}, bytes", size) as advance:
        for chunk in chunks:
            advance(len(chunk))
            yield chunk


def model_content(source: str) -> dict[str, str]:
    """Return the `content` of each file of a model's folder, by file; for a model on the hub, the commit."""
    folder = source_folder(source)
    if folder is None:
        return {"commit": _hub_commit(source)}
    parts = (path for index in folder.glob(_INDEX) for path in _parts(index))
    listed = (path for pattern in _MODEL_FILES for path in folder.glob(pattern))
    files = sorted({path for path in (*listed, *parts) if path.is_file()})
    found = {str(path.relative_to(folder)): content(path) for path in files}
    base = base_of_adapter(folder)
    return found if base is None else found | {f"base, {name}": value for name, value in model_content(base).items()}


def _parts(index: Path) -> set[Path]:
    """Return the weight files that a model's index lists; an empty set if it is not the index of a model."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return {index.parent / name for name in names}
    except (ValueError, KeyError, TypeError, AttributeError):  # not the index of a model
        return set()


def _moments_named(hparams: Mapping[str, object]) -> dict[str, object]:
    """Return the `content` of the second moments in the `stats_dir` of hyperparameters, for their corpus and any
    model."""
    if not hparams.get("stats_dir"):
        return {}
    root = Path(str(hparams["stats_dir"])).expanduser()
    corpus = glob.escape(Path(str(hparams.get("mom2_dataset") or "")).stem)
    files = sorted(root.glob(f"*/{corpus}_stats/*.npz"))
    return {_MOMENTS: {str(path.relative_to(root)): content(path) for path in files}}


def _hub_commit(source: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    model_config(source)  # asks the hub for the newest commit, as loading would
    config = try_to_load_from_cache(source, "config.json")
    return Path(config).parent.name if isinstance(config, str) else "unknown"


# -- versions ---------------------------------------------------------------------------------------------------------


def _versions() -> dict[str, str]:
    return {f"version of {package}": version(package) for package in ("nse-plugin", "torch", "transformers")}


def version(package: str) -> str:
    """Return an installed package's version, without the name of its build (the +cpu of 2.13.0+cpu)."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _easyedit() -> str:
    """Return the version of EasyEdit; for a clone, a hash of its files."""
    clone = os.environ.get("EASYEDIT_HOME")
    if not clone:
        return version("easyeditor")
    files = sorted((Path(clone).expanduser() / "easyeditor").rglob("*.py"))
    return f"a clone, sha256 {_hash([content(path) for path in files])}"


# -- comparison with earlier inputs -----------------------------------------------------------------------------------


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Describe the first difference between earlier and present inputs, e.g. "seed was 0, now 1". Returns None if there
    is none. Ignored are keys that only `before` has, and second moments added since: the run itself may have measured
    them."""
    for name, value in json.loads(json.dumps(now)).items():
        if name not in before:
            return f"{name} was not noted, now {_shortened(value)}"
        if name == _MOMENTS:
            value = {file: found for file, found in value.items() if file in before[name]}
        if before[name] != value:
            return _difference(name, before[name], value)
    return None


def _difference(name: str, before: object, now: object) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        key = next(key for key in {**now, **before} if before.get(key) != now.get(key))
        joint = ", " if name.startswith("content") else "."  # before the name of a file, of a setting
        return _difference(f"{name}{joint}{key}", before.get(key), now.get(key))
    return f"{name} was {_shortened(before)}, now {_shortened(now)}"


def _shortened(value: object) -> str:
    """Shorten a value for an error message; hashes are cut to their first 8 digits."""
    text = _HASH.sub(r"\1", value) if isinstance(value, str) else repr(value)
    return f"{text:.200}"


def _contents(where: str, named: Mapping[str, str]) -> dict[str, str]:
    return {f"content of {where}.{name}": value for name, value in named.items()}


def _hash(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
