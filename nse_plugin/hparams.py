"""NSE's hyperparameters: one dataclass, a subclass per published model, YAML and JSON in and out.

Field names are EasyEdit's where EasyEdit has them. EasyEdit assigns to these objects (the wheel sets
`batch_size = 1`), so they are not frozen: values are read leniently whenever one is assigned, and `check()` runs when
an object is built and again before every round.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from nse_plugin.support.suggestions import did_you_mean

log = logging.getLogger(__name__)

# What MEMIT's and the authors' files also carry and NSE needs nobody to say: it finds the model's parts by
# structure, and always optimises at the last layer. Such a key may stand in a file, with the one value that is
# right (None: any).
_FOUND_BY_STRUCTURE: dict[str, Any] = {
    "layer_module_tmp": None, "mlp_module_tmp": None, "attn_module_tmp": None, "ln_f_module": None,
    "lm_head_module": None, "v_loss_layer": None, "layer_selection": "all", "mom2_adjustment": True,
}  # fmt: skip
_ALIASES = {"neuron_threshold": "p", "alg": "alg_name"}
PRESETS = ("paper", "released")
SOLVERS = ("exact", "fast")
MOMENT_DTYPES = ("float32", "float64")


class HyperParamsError(ValueError):
    """A hyperparameter that cannot be used; the message names the field, its value and the remedy."""


@dataclass
class NSEHyperParams:
    """Hyperparameters of NSE (arXiv 2410.04045), compatible with EasyEdit's `HyperParams`.

    What is edited
        layers: the edited layers, ascending; the last one, l_0, is where the value z is optimised.
        p: neuron selection: the smallest set of neurons whose scores sum to `p` of the total; in (0, 1].
        alpha: a fact whose residual norm(z - h) is above `alpha` goes round again; the unit is that of h.
        max_iterations: passes over the layers (preset `released` makes one fewer, as the authors' code does).
        mom2_update_weight: lambda, the weight of the preserved knowledge C0.
        preset: `paper`, or `released` for the authors' code: neuron set short of p, `max_iterations - 1`
            passes, facts above `upper_bound` skipped (and reported).
        chat: write facts as a user's message that the assistant answers, in the tokenizer's chat template: True, or the
            name of one of several templates; "both": one value for this and for plain text; False: plain text.
        rewind: compute z on the original weights. False: on the weights as they are now (ablation).
        accumulate: protect the keys of earlier rounds, and write their facts about a round's subjects again. False:
            each round forgets them (ablation).
    How z is optimised
        v_lr, v_num_grad_steps: Adam's learning rate and the loss evaluations (steps - 1 updates).
        v_weight_decay, kl_factor: weights of norm(delta) / norm(h)^2 and of the KL term.
        clamp_norm_factor: delta is kept within this many norm(h).
        solver: `exact`, as published; `fast`: in fewer contexts and in fewer, longer steps (`method/solvers.py`). In a
            file it may also stand as `values: {solver: fast}`.
    Second moments C0
        mom2_dataset: `self` (text the model writes), `wikipedia`, or a .txt, .jsonl or .parquet file.
        mom2_n_samples: documents read, or passages written for `self`.
        mom2_dtype: `float32` or `float64`, the type they are kept in.
        stats_dir: where EasyEdit's npz files lie and new ones go; None: in the store, or the user's cache folder.
    Running
        store: a folder where z, and second moments without a stats_dir, are kept for other runs (`Store`); None: none.
        tokens_per_batch: upper bound on the tokens of one forward pass; those that gradients go through count many
            times. Lower it for less memory: results differ by rounding alone.
        seed: of everything sampled (context templates, self-written text).
        rewrite_module_tmp: the edited matrix by name with `{}` for the layer; None: found by structure.
        The rest is read by EasyEdit itself.

    Raises HyperParamsError from `check()`.
    """

    layers: list[int]
    alpha: float
    p: float = 1.0
    max_iterations: int = 3
    mom2_update_weight: float = 15000.0
    preset: str = "paper"
    upper_bound: float | None = None
    rewind: bool = True
    accumulate: bool = True
    chat: bool | str = False

    v_lr: float = 0.5
    v_num_grad_steps: int = 25
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    solver: str = "exact"

    mom2_dataset: str = "self"
    mom2_n_samples: int = 160
    mom2_dtype: str = "float32"
    stats_dir: str | None = None

    store: str | None = None
    tokens_per_batch: int = 4096
    seed: int = 0
    rewrite_module_tmp: str | None = None
    fact_token: str = "subject_last"

    alg_name: str = "NSE"
    model_name: str = ""
    device: int | str = 0
    batch_size: int = 100
    max_length: int = 40
    model_parallel: bool = False
    fp16: bool = False
    evaluation_type: str | None = None
    api_key: str | None = None
    use_chat_template: bool = False

    def __post_init__(self) -> None:
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, _plain_python(_FIELD_TYPES.get(name, ""), value))

    def check(self) -> None:
        """Raise HyperParamsError on the first value that cannot be used."""
        _require(self.alg_name == "NSE", "alg_name", self.alg_name, "this class configures alg_name: NSE")
        layers = self.layers
        if not isinstance(layers, list):
            meant = [int(number) for number in re.findall(r"\d+", str(layers))] or [1, 2]
            _require(False, "layers", layers, f"give a list of numbers, {meant}")
        _require(len(layers) > 0, "layers", layers, "list at least one layer")
        _require(all(_is_int(n) and n >= 0 for n in layers), "layers", layers, "use integers from 0")
        _require(sorted(set(layers)) == layers, "layers", layers, "list them ascending, each once")
        _require(_is_number(self.p) and 0 < self.p <= 1, "p", self.p, "use a number in (0, 1]")
        for name in ("alpha", "mom2_update_weight", "v_lr", "clamp_norm_factor"):
            value = getattr(self, name)
            _require(_is_number(value) and value > 0, name, value, "use a number above 0")
        for name in ("v_weight_decay", "kl_factor"):
            value = getattr(self, name)
            _require(_is_number(value) and value >= 0, name, value, "use 0 or a number above")
        for name in ("max_iterations", "v_num_grad_steps", "batch_size", "mom2_n_samples", "tokens_per_batch"):
            value = getattr(self, name)
            _require(_is_int(value) and value > 0, name, value, "use an integer above 0")
        _require(_is_int(self.seed) and self.seed >= 0, "seed", self.seed, "use an integer, 0 or more")
        _require(self.preset in PRESETS, "preset", self.preset, f"use one of {', '.join(PRESETS)}")
        _require(self.solver in SOLVERS, "solver", self.solver, f"use one of {', '.join(SOLVERS)}")
        ok = self.mom2_dtype in MOMENT_DTYPES
        _require(ok, "mom2_dtype", self.mom2_dtype, f"use one of {', '.join(MOMENT_DTYPES)}")
        ok = isinstance(self.mom2_dataset, str) and self.mom2_dataset != ""
        _require(ok, "mom2_dataset", self.mom2_dataset, "use 'self', 'wikipedia', or a .txt, .jsonl or .parquet file")
        for name in ("stats_dir", "store"):
            ok = getattr(self, name) is None or isinstance(getattr(self, name), str)
            _require(ok, name, getattr(self, name), "name a folder, or leave it out")
        for name in ("rewind", "accumulate"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "use true or false")
        ok = isinstance(self.chat, bool) or (isinstance(self.chat, str) and self.chat.strip() != "")
        _require(ok, "chat", self.chat, "use true, false, 'both', or the name of a chat template")
        _require(self.fact_token == "subject_last", "fact_token", self.fact_token, "NSE looks facts up at subject_last")
        if self.upper_bound is not None:
            ok = _is_number(self.upper_bound) and self.upper_bound > 0
            _require(ok, "upper_bound", self.upper_bound, "use a number above 0, or leave it out")
        if self.preset == "released":
            ok = self.upper_bound is None or self.upper_bound > self.alpha
            _require(ok, "upper_bound", self.upper_bound, f"use a number above alpha = {self.alpha}")
            _require(self.max_iterations >= 2, "max_iterations", self.max_iterations,
                     "preset released makes max_iterations - 1 passes, so use at least 2")  # fmt: skip
        if self.rewrite_module_tmp is not None:
            ok = isinstance(self.rewrite_module_tmp, str) and self.rewrite_module_tmp.count("{}") == 1
            _require(ok, "rewrite_module_tmp", self.rewrite_module_tmp, "write '{}' where the layer number goes")

    @property
    def passes(self) -> int:
        """How often the layers are gone through at most."""
        return self.max_iterations - (self.preset == "released")

    # -- reading and writing ---------------------------------------------------------------------------------

    @classmethod
    def from_hparams(cls, hparams_name_or_path: str | Path) -> Self:
        """Read a bundled preset by name ("llama3-8b") or a YAML/JSON file by path (EasyEdit's or the authors').

        As in EasyEdit, ".yaml" may be left out of a path. Raises HyperParamsError for an unknown name, key or value.
        """
        path = _find_file(str(hparams_name_or_path))
        try:
            text = path.read_text(encoding="utf-8")
            config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise HyperParamsError(f"{path} is not readable as {path.suffix[1:].upper()}: {reason}") from error
        if not isinstance(config, dict):
            raise HyperParamsError(f"{path} holds no mapping: write one 'field: value' a line.")
        try:
            settings = _known_fields(cls, config)
            for spec in dataclasses.fields(cls):
                optional = spec.default is not MISSING or spec.default_factory is not MISSING
                if not optional and spec.name not in settings:
                    raise HyperParamsError(f"{spec.name} is missing: no value of it suits every model, so give one.")
            return cls(**settings)
        except HyperParamsError as error:
            raise HyperParamsError(f"{path}: {error}") from error

    from_json = from_hparams

    @classmethod
    def for_model(cls, model_or_name: Any, **overrides: Any) -> NSEHyperParams:
        """The hyperparameters published (or tuned here) for a model, with `overrides` on top.

        model_or_name: a loaded transformers model, or a name or path such as "openai-community/gpt2-xl", which
        EasyEdit is then to load.
        A model nobody tuned needs at least `layers` and `alpha` among the overrides.
        Raises HyperParamsError for an unknown model without them, and for unknown or unusable overrides.
        """
        chosen = next((known for known in TUNED_FOR if known.fits(model_or_name)), None)
        settings = _known_fields(cls, overrides)
        if isinstance(model_or_name, str | os.PathLike):
            settings.setdefault("model_name", os.fspath(model_or_name))
        if chosen is None:
            if not {"layers", "alpha"} <= settings.keys():
                known = ", ".join(c.aliases[0] for c in TUNED_FOR)
                raise HyperParamsError(
                    f"No tuned hyperparameters for {_describe(model_or_name)} (there are: {known}): pass at least "
                    "layers=[...] and alpha=... yourself, or have `nse tune` find both."
                )
            return NSEHyperParams(**settings)
        return chosen(**settings)

    def with_overrides(self, **overrides: Any) -> NSEHyperParams:
        """A copy with other values of some fields, by any of their names. Raises HyperParamsError."""
        return dataclasses.replace(self, **_known_fields(type(self), overrides))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain Python values."""
        return {**{spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}, "layers": [*self.layers]}

    # -- what a subclass per model says of the model it is for -------------------------------------------------

    aliases: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[tuple[str, int, int, int] | None] = None  # model_type, layers, hidden size, vocabulary

    @classmethod
    def fits(cls, model_or_name: Any) -> bool:
        """Whether this class was tuned for the model: by its shape when loaded, else by its name."""
        config = getattr(model_or_name, "config", None)
        if config is not None:
            config = config.get_text_config() if hasattr(config, "get_text_config") else config
            found = (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size)
            return found == cls.shape
        name = Path(str(model_or_name)).name
        return any(_plain(name).startswith(_plain(alias)) for alias in cls.aliases)


@dataclass
class GPT2XLNSEHyperParams(NSEHyperParams):
    """GPT2-XL, the published figures (layers 13-17, alpha 35, p 1.0, lambda 10,000)."""

    layers: list[int] = field(default_factory=lambda: [13, 14, 15, 16, 17])
    alpha: float = 35.0
    upper_bound: float | None = 150.0
    v_num_grad_steps: int = 20
    mom2_update_weight: float = 10000.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/gpt2-xl"
    aliases: ClassVar[tuple[str, ...]] = ("gpt2-xl",)
    shape: ClassVar[tuple[str, int, int, int] | None] = ("gpt2", 48, 1600, 50257)


@dataclass
class GPTJNSEHyperParams(NSEHyperParams):
    """GPT-J-6B, the published figures (layers 3-8, alpha 15, p 0.8, lambda 15,000)."""

    layers: list[int] = field(default_factory=lambda: [3, 4, 5, 6, 7, 8])
    alpha: float = 15.0
    p: float = 0.8
    upper_bound: float | None = 100.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/gpt-j-6B"
    aliases: ClassVar[tuple[str, ...]] = ("gpt-j-6B", "EleutherAI_gpt-j-6B")
    shape: ClassVar[tuple[str, int, int, int] | None] = ("gptj", 28, 4096, 50400)


@dataclass
class Llama3NSEHyperParams(NSEHyperParams):
    """Llama3-8B, the published figures (layers 4-8, alpha 2.5, p 1.0, v_lr 0.1, lambda 15,000)."""

    layers: list[int] = field(default_factory=lambda: [4, 5, 6, 7, 8])
    alpha: float = 2.5
    upper_bound: float | None = 50.0
    v_lr: float = 0.1
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    stats_dir: str | None = "./data/stats"
    model_name: str = "./hugging_cache/llama3-8b"
    aliases: ClassVar[tuple[str, ...]] = (
        "llama3-8b", "meta-llama-3-8b", "llama-3-8b", "llama3.1-8b", "meta-llama-3.1-8b", "llama-3.1-8b"
    )  # fmt: skip
    shape: ClassVar[tuple[str, int, int, int] | None] = ("llama", 32, 4096, 128256)


@dataclass
class SmolLM2NSEHyperParams(NSEHyperParams):
    """SmolLM2-135M, tuned here on CounterFact facts (README, "How SmolLM2 was tuned")."""

    layers: list[int] = field(default_factory=lambda: [4, 5, 6])
    alpha: float = 15.0
    p: float = 0.8
    upper_bound: float | None = None
    mom2_update_weight: float = 600.0
    v_num_grad_steps: int = 11
    mom2_n_samples: int = 128
    tokens_per_batch: int = 8192
    batch_size: int = 10
    device: int | str = "cpu"
    model_name: str = "smollm2-135m"
    aliases: ClassVar[tuple[str, ...]] = ("smollm2-135m",)
    shape: ClassVar[tuple[str, int, int, int] | None] = ("llama", 30, 576, 49152)


_FIELD_TYPES = {spec.name: str(spec.type) for spec in dataclasses.fields(NSEHyperParams)}
TUNED_FOR: tuple[type[NSEHyperParams], ...] = (
    GPT2XLNSEHyperParams,
    GPTJNSEHyperParams,
    Llama3NSEHyperParams,
    SmolLM2NSEHyperParams,
)


def plain_value(name: str, value: Any) -> Any:
    """A value as the field `name` keeps it: 1 is 1.0 where a number need not be whole. Raises HyperParamsError for an
    unknown name."""
    if name not in _FIELD_TYPES:
        raise HyperParamsError(f"Unknown hyperparameter {name!r}: the fields are {', '.join(sorted(_FIELD_TYPES))}.")
    return _plain_python(_FIELD_TYPES[name], value)


def _known_fields(cls: type[NSEHyperParams], config: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve aliases, drop what is found by structure, and refuse unknown keys with the nearest name."""
    names = {spec.name for spec in dataclasses.fields(cls)}
    known: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    given = list(config.items())
    if isinstance(config.get("values"), Mapping):  # the value step's own may stand under one heading
        given = [(key, value) for key, value in given if key != "values"] + list(config["values"].items())
    for key, value in given:
        name = _ALIASES.get(key, key)
        if name in _FOUND_BY_STRUCTURE:
            right = _FOUND_BY_STRUCTURE[name]
            _require(right is None or value == right, name, value, f"NSE supports {right!r} only")
            log.debug("%s is not needed: found by structure", name)
        elif name not in names:
            hint = did_you_mean(key, [*names, *_ALIASES], f"the fields are {', '.join(sorted(names))}.", cutoff=0.4)
            raise HyperParamsError(f"Unknown hyperparameter {key!r}: {hint}")
        elif name in known:
            raise HyperParamsError(f"{spelt[name]!r} and {key!r} are the same hyperparameter: give one of them.")
        else:
            known[name] = value
            spelt[name] = key
    return known


def _find_file(name: str) -> Path:
    """A path as given, with .yaml added as EasyEdit does, or the bundled preset of that name."""
    here = Path(__file__).resolve().parent
    bundled = [here / "presets" / "NSE", here.parent / "hparams" / "NSE"]  # in a wheel, in a checkout
    given = Path(name)
    candidates = [given, Path(f"{name}.yaml")]
    if given.parent.parts[-2:] in ((), ("hparams", "NSE")):
        candidates += [folder / f"{given.name.removesuffix('.yaml')}.yaml" for folder in bundled]
    for path in candidates:
        if path.is_file():
            return path
    presets = sorted({p.stem for folder in bundled for p in folder.glob("*.yaml")})
    hint = did_you_mean(name, presets, "")
    remedy = " ".join(filter(None, [hint, f"Give a YAML or JSON path, or one of {presets}."]))
    raise HyperParamsError(f"No hyperparameter file {name!r}: {remedy}")


def _plain_python(kind: str, value: Any) -> Any:
    """A value for a field of type `kind`: YAML 1.1 reads 5e-1 as a string, and OmegaConf brings its own lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind.startswith("list") and not isinstance(value, str | int | float) and value is not None:
        return list(value)
    if kind.startswith("float"):
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return float(value) if _is_int(value) else value
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise HyperParamsError(f"{name} = {value!r} cannot be used: {remedy}.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _describe(model_or_name: Any) -> str:
    config = getattr(model_or_name, "config", None)
    return repr(model_or_name) if config is None else f"this {type(model_or_name).__name__}"
