"""The model of an experiment: its name in the results, its source, its configuration and tokenizer."""

from __future__ import annotations

import functools
import json
import os
import re
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
# Any saved tokenizer has one of these files; without them, transformers creates a tokenizer with an empty vocabulary.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class ModelChoice:
    """The model of an experiment. name: its name in the results. source: a folder, a GGUF file, a name on the hub, or
    `embedded`. dtype, device: names in torch."""

    name: str
    source: str
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelChoice:
        """Read a configuration composed by hydra. If the source is not that of the named model, the name becomes
        `source_name(source)`. Raises PlanError."""
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
    """Return a model's name in the results: the name of its folder, or the last part of its name on the hub."""
    return Path(source).resolve().name if is_path(source) or Path(source).is_dir() else source.rpartition("/")[2]


def is_path(source: str) -> bool:
    """Return whether a source can only be a path: names on the hub are `name` or `owner/name`, and begin with a letter
    or a digit."""
    return source.startswith((".", "~", "/")) or source.count("/") > 1 or os.path.isabs(source)


def check_source(source: str, named: str = "model") -> None:
    """Raise PlanError for a path that is neither a model's folder nor a GGUF file. named: the setting or option with
    which the user gave it."""
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
    """Return the folder with a model's files; that of `embedded` is created if it does not exist. Returns None for a
    model on the hub."""
    if source == EMBEDDED:
        from nse_plugin.models.embedded import embedded_model, embedded_model_folder

        if not embedded_model_folder().is_dir():
            embedded_model()
        return embedded_model_folder()
    return Path(source) if Path(source).is_dir() else None


def model_config(source: str, named: str = "model") -> PretrainedConfig:
    """Read the transformers configuration of a model, without its weights. Raises PlanError, GGUFError."""
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
        raise PlanError(f"{named} {source} cannot be read: {_sentences(error)}") from None
    return config


def model_tokenizer(source: str, named: str = "model") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, without its weights. Raises PlanError, GGUFError."""
    from transformers import AutoTokenizer

    from nse_plugin.models.gguf.file import gguf_tokenizer

    if source.endswith(GGUF):
        return gguf_tokenizer(source)
    folder = source_folder(source)
    try:
        return AutoTokenizer.from_pretrained(source if folder is None else folder)
    except (OSError, ValueError, KeyError) as error:
        raise PlanError(f"{named} {source}: its tokenizer cannot be read: {_sentences(error)}") from None


@functools.lru_cache(maxsize=8)
def _hub_config(source: str, named: str) -> PretrainedConfig:
    """Read the configuration of a model on the hub, once per process. As loading would, this looks up the newest
    commit. Raises PlanError."""
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise PlanError(f"{named} {source}: there is no such folder, and from the hub: {_sentences(error)}") from None
    return config


def _sentences(error: Exception, length: int = 200) -> str:
    """Return the first sentence of an error message, and the following ones while they fit in `length` characters."""
    first, *others = re.split(r"(?<=[.!?])\s+", " ".join(str(error).split()))
    for sentence in others:
        if len(first) + 1 + len(sentence) > length:
            break
        first = f"{first} {sentence}"
    return first


def base_of_adapter(folder: Path) -> str | None:
    """Return the source of the base model of an adapter saved by peft. Returns None if the folder is not that of an
    adapter."""
    if (folder / _CONFIG).is_file() or not (folder / _ADAPTER).is_file():
        return None
    return str(json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])


def tuned_name(config: PretrainedConfig) -> str | None:
    """Return the name of this package's presets for a model of this shape. Returns None if there are none."""
    model = SimpleNamespace(config=config)
    return next((known.aliases[0] for known in TUNED_FOR if known.fits(model)), None)


def shape_of(config: PretrainedConfig) -> str:
    """Describe a model's shape: its type, number of layers and hidden size."""
    text = config.get_text_config()
    return f"a {text.model_type} of {number_of(text.num_hidden_layers, 'layer')}, hidden size {text.hidden_size}"


@functools.cache
def _bundled() -> dict[str, str]:
    """Return the sources of the models in `conf/model`, by name."""
    files = (resources.files("nse_plugin.experiments.conf") / "model").iterdir()
    read = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.name.endswith(".yaml")]
    return {model["name"]: model["source"] for model in read if model["name"]}


def is_bundled(name: str) -> bool:
    """Return whether `conf/model` has a model of this name."""
    return name in _bundled()
