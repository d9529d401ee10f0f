"""The model of an experiment: what results call it, where it is, and what its files hold besides its weights."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import yaml

from nse_plugin.experiments.plan.checks import PlanError, made
from nse_plugin.hparams import TUNED_FOR
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DTYPES = ("float32", "float64", "bfloat16", "float16")
EMBEDDED, GGUF = "embedded", ".gguf"
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
# One of them is there in any form of tokenizer; without, transformers makes one up that knows no word.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class ModelChoice:
    """name: what results call it. source: a folder, a hub name, or `embedded`. dtype, device: as torch names them."""

    name: str
    source: str
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelChoice:
        """Read what hydra composed. A source that is not the named model's own is called by its folder's name, or its
        name on the hub. Raises PlanError."""
        name, source = config.get("name"), config.get("source")
        if not isinstance(source, str) or source in ("", "???"):
            raise PlanError(f"model.source = {source!r} cannot be used: give a folder, a hub name, or `embedded`.")
        source = os.path.expanduser(source)
        own = name is None or _bundled().get(name, source) != source
        choice = made(cls, "model", {**config, "source": source, "name": source_name(source) if own else name})
        if choice.dtype not in DTYPES:
            raise PlanError(f"model.dtype = {choice.dtype!r} cannot be used: give one of {', '.join(DTYPES)}.")
        return choice


def source_name(source: str) -> str:
    """What results call a model: its folder's name, or the last part of its name on the hub."""
    return Path(source).resolve().name if is_path(source) or Path(source).is_dir() else source.rpartition("/")[2]


def is_path(source: str) -> bool:
    """Whether a source can only be a path: hub names are `name` or `owner/name`, and begin with a letter or digit."""
    return source.startswith((".", "~", "/")) or source.count("/") > 1 or os.path.isabs(source)


def check_source(source: str, named: str = "model") -> None:
    """Raise PlanError for a path that is no folder of a model and no GGUF file. named: what the user gave it as."""
    path = Path(source)
    if source.endswith(GGUF):
        if not path.is_file():
            raise PlanError(f"{named} {source}: there is no such file.")
    elif path.is_dir():
        for what, names in (("model", (_CONFIG, _ADAPTER)), ("tokenizer", _TOKENIZER)):
            if not any((path / name).is_file() for name in names):
                raise PlanError(f"{named} {source} holds no {what}: write one there with `{what}.save_pretrained`.")
    elif path.is_file():
        raise PlanError(f"{named} {source} is a file: give the folder that holds the model, or a .gguf file.")
    elif is_path(source):
        raise PlanError(f"{named} {source}: there is no such folder.")


def source_folder(source: str) -> Path | None:
    """The folder with a model's files, that of `embedded` made where it is not there yet; None: it is on the hub."""
    if source == EMBEDDED:
        from nse_plugin.models.embedded import embedded_model, embedded_model_folder

        if not embedded_model_folder().is_dir():
            embedded_model()
        return embedded_model_folder()
    return Path(source) if Path(source).is_dir() else None


def model_config(source: str, named: str = "model") -> PretrainedConfig:
    """transformers' configuration of a model, read without its weights. Raises PlanError, GGUFError."""
    from transformers import AutoConfig

    from nse_plugin.models.gguf.file import gguf_config

    check_source(source, named)
    if source.endswith(GGUF):
        return gguf_config(source)
    folder = source_folder(source)
    if folder is None:
        return _hub_config(source, named)
    base = base_of_adapter(folder)
    if base is not None:
        return model_config(base, f"{named} {source}: its base model")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise PlanError(f"{named} {source} cannot be read: {' '.join(str(error).split()):.200}") from None
    return config


def model_tokenizer(source: str, named: str = "model") -> PreTrainedTokenizerBase:
    """A model's tokenizer, without its weights. Raises PlanError, GGUFError."""
    from transformers import AutoTokenizer

    from nse_plugin.models.gguf.file import gguf_tokenizer

    if source.endswith(GGUF):
        return gguf_tokenizer(source)
    folder = source_folder(source)
    try:
        return AutoTokenizer.from_pretrained(source if folder is None else folder)
    except (OSError, ValueError, KeyError) as error:
        raise PlanError(
            f"{named} {source}: its tokenizer cannot be read: {' '.join(str(error).split()):.200}"
        ) from None


@functools.lru_cache(maxsize=8)
def _hub_config(source: str, named: str) -> PretrainedConfig:
    """Asked of the hub once a process, as loading would ask it; which also returns the newest commit."""
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"{named} {source}: there is no such folder, and from the hub: {reason:.200}") from None
    return config


def base_of_adapter(folder: Path) -> str | None:
    """The source of the model that an adapter saved by peft belongs to; None: the folder holds a whole model."""
    if (folder / _CONFIG).is_file() or not (folder / _ADAPTER).is_file():
        return None
    return str(json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])


def tuned_name(config: PretrainedConfig) -> str | None:
    """The name of the presets that come with this package for a model of this shape; None: there are none."""
    model = SimpleNamespace(config=config)
    return next((known.aliases[0] for known in TUNED_FOR if known.fits(model)), None)


def shape_of(config: PretrainedConfig) -> str:
    """A description of a model's shape."""
    text = config.get_text_config()
    return f"a {text.model_type} of {number_of(text.num_hidden_layers, 'layer')}, hidden size {text.hidden_size}"


@functools.cache
def _bundled() -> dict[str, str]:
    """The sources of the models that `conf/model` has, by name."""
    files = (resources.files("nse_plugin.experiments.conf") / "model").iterdir()
    read = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.name.endswith(".yaml")]
    return {model["name"]: model["source"] for model in read if model["name"]}


def is_bundled(name: str) -> bool:
    """Whether `conf/model` has a model of this name."""
    return name in _bundled()
