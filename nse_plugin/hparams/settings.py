"""NSE's hyperparameters: one dataclass and its checks.

Field names are EasyEdit's where EasyEdit has them. EasyEdit assigns to these objects (the wheel sets
`batch_size = 1`), so they are not frozen: values are read leniently whenever one is assigned, and `check()` runs when
an object is built and again before every round.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.files import find_file, read_mapping
from nse_plugin.hparams.names import known_fields
from nse_plugin.hparams.values import is_int, is_number, plain_python, require

PRESETS = ("paper", "released")
SUBSPACES = ("neurons", "null_space")
SOLVERS = ("exact", "fast")
Z_STOPS = ("loss", "argmax")
MOMENT_DTYPES = ("float32", "float64")


@dataclass
class NSEHyperParams:
    """Hyperparameters of NSE (arXiv 2410.04045), compatible with EasyEdit's `HyperParams`.

    What is edited
        layers: the edited layers, ascending; the last one, l_0, is where the value z is optimised.
        p: neuron selection: the smallest set of neurons whose scores sum to `p` of the total; in (0, 1].
        subspace: where an update may live: `neurons`, those that `p` selects, or the `null_space` of C0 (arXiv
            2410.02355, AlphaEdit), where `p` plays no part.
        nullspace_threshold: for `null_space`: the eigenvalue of C0 below which a direction counts as unused.
        alpha: a fact whose residual norm(z - h) is above `alpha` goes round again; the unit is that of h.
        max_iterations: passes over the layers (preset `released` makes one fewer, as the authors' code does).
        mom2_update_weight: lambda, the weight of the preserved knowledge C0; 0 only with a ridge.
        ridge: added to the diagonal of the update's system (AlphaEdit's L2).
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
        solver: `exact`, as published; `fast`: fewer contexts and fewer, longer steps (`method/value_optimizer.py`).
            In a file it may also stand as `values: {solver: fast}`.
        z_stop: `loss`: a fact's optimisation ends at a loss below 0.05, as published; `argmax`: also as soon as its
            target is the model's first choice in every context (ENCORE, arXiv 2502.01636).
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
    subspace: str = "neurons"
    nullspace_threshold: float = 2e-2
    max_iterations: int = 3
    mom2_update_weight: float = 15000.0
    ridge: float = 0.0
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
    z_stop: str = "loss"

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
        object.__setattr__(self, name, plain_python(_FIELD_TYPES.get(name, ""), value))

    def check(self) -> None:
        """Raise HyperParamsError on the first value that cannot be used."""
        require(self.alg_name == "NSE", "alg_name", self.alg_name, "this class configures alg_name: NSE")
        layers = self.layers
        if not isinstance(layers, list):
            meant = [int(number) for number in re.findall(r"\d+", str(layers))] or [1, 2]
            require(False, "layers", layers, f"give a list of numbers, {meant}")
        require(len(layers) > 0, "layers", layers, "list at least one layer")
        require(all(is_int(n) and n >= 0 for n in layers), "layers", layers, "use integers from 0")
        require(sorted(set(layers)) == layers, "layers", layers, "list them ascending, each once")
        require(is_number(self.p) and 0 < self.p <= 1, "p", self.p, "use a number in (0, 1]")
        for name in ("alpha", "nullspace_threshold", "v_lr", "clamp_norm_factor"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, name, value, "use a number above 0")
        for name in ("v_weight_decay", "kl_factor", "ridge"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "use 0 or a number above")
        ok = is_number(self.mom2_update_weight) and (
            self.mom2_update_weight > 0 or self.mom2_update_weight == 0 < self.ridge
        )
        require(ok, "mom2_update_weight", self.mom2_update_weight, "use a number above 0 (0 with a ridge)")
        require(self.subspace in SUBSPACES, "subspace", self.subspace, f"use one of {', '.join(SUBSPACES)}")
        for name in ("max_iterations", "v_num_grad_steps", "batch_size", "mom2_n_samples", "tokens_per_batch"):
            value = getattr(self, name)
            require(is_int(value) and value > 0, name, value, "use an integer above 0")
        require(is_int(self.seed) and self.seed >= 0, "seed", self.seed, "use an integer, 0 or more")
        require(self.preset in PRESETS, "preset", self.preset, f"use one of {', '.join(PRESETS)}")
        require(self.solver in SOLVERS, "solver", self.solver, f"use one of {', '.join(SOLVERS)}")
        require(self.z_stop in Z_STOPS, "z_stop", self.z_stop, f"use one of {', '.join(Z_STOPS)}")
        ok = self.mom2_dtype in MOMENT_DTYPES
        require(ok, "mom2_dtype", self.mom2_dtype, f"use one of {', '.join(MOMENT_DTYPES)}")
        ok = isinstance(self.mom2_dataset, str) and self.mom2_dataset != ""
        require(ok, "mom2_dataset", self.mom2_dataset, "use 'self', 'wikipedia', or a .txt, .jsonl or .parquet file")
        for name in ("stats_dir", "store"):
            ok = getattr(self, name) is None or isinstance(getattr(self, name), str)
            require(ok, name, getattr(self, name), "name a folder, or leave it out")
        for name in ("rewind", "accumulate"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "use true or false")
        ok = isinstance(self.chat, bool) or (isinstance(self.chat, str) and self.chat.strip() != "")
        require(ok, "chat", self.chat, "use true, false, 'both', or the name of a chat template")
        require(self.fact_token == "subject_last", "fact_token", self.fact_token, "NSE looks facts up at subject_last")
        if self.upper_bound is not None:
            ok = is_number(self.upper_bound) and self.upper_bound > 0
            require(ok, "upper_bound", self.upper_bound, "use a number above 0, or leave it out")
        if self.preset == "released":
            ok = self.upper_bound is None or self.upper_bound > self.alpha
            require(ok, "upper_bound", self.upper_bound, f"use a number above alpha = {self.alpha}")
            require(self.max_iterations >= 2, "max_iterations", self.max_iterations,
                     "preset released makes max_iterations - 1 passes, so use at least 2")  # fmt: skip
        if self.rewrite_module_tmp is not None:
            ok = isinstance(self.rewrite_module_tmp, str) and self.rewrite_module_tmp.count("{}") == 1
            require(ok, "rewrite_module_tmp", self.rewrite_module_tmp, "write '{}' where the layer number goes")

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
        path = find_file(str(hparams_name_or_path))
        config = read_mapping(path)
        try:
            settings = known_fields(_FIELD_TYPES, config)
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
        from nse_plugin.hparams.tuned import TUNED_FOR  # subclasses of this class

        chosen = next((known for known in TUNED_FOR if known.fits(model_or_name)), None)
        settings = known_fields(_FIELD_TYPES, overrides)
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
        return dataclasses.replace(self, **known_fields(_FIELD_TYPES, overrides))

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


_FIELD_TYPES = {spec.name: str(spec.type) for spec in dataclasses.fields(NSEHyperParams)}


def plain_value(name: str, value: Any) -> Any:
    """A value as the field `name` keeps it: 1 is 1.0 where a number need not be whole. Raises HyperParamsError for an
    unknown name."""
    if name not in _FIELD_TYPES:
        raise HyperParamsError(f"Unknown hyperparameter {name!r}: the fields are {', '.join(sorted(_FIELD_TYPES))}.")
    return plain_python(_FIELD_TYPES[name], value)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _describe(model_or_name: Any) -> str:
    config = getattr(model_or_name, "config", None)
    return repr(model_or_name) if config is None else f"this {type(model_or_name).__name__}"
