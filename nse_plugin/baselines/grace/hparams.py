"""GRACE's hyperparameters under EasyEdit's names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from nse_plugin.hparams import HyperParamsError


@dataclass
class GRACEHyperParams:
    """Hyperparameters of GRACE under EasyEdit's names; EasyEdit's own files can be read too.

    inner_params: the layer to wrap, as a list with one parameter's name: "model.layers[27].mlp.down_proj.weight".
    eps: radius of a new key, in units of the layer's input activation.
    edit_lr, n_iter: Adam's learning rate for a value, and its maximum number of steps (it stops once the target is
    learned).
    val_init: how a value starts: "cold", uniform in [0, 1), or "warm", the layer's own output.
    dist_fn, eps_expand, replacement, val_train: only euc, coverage, replace_last and sgd are supported.
    The other fields exist because EasyEdit's files have them.

    Raises HyperParamsError if a value cannot be used.
    """

    inner_params: list[str]
    edit_lr: float = 1.0
    n_iter: int = 100
    eps: float = 1.0
    dist_fn: str = "euc"
    val_init: str = "cold"
    val_train: str = "sgd"
    val_reg: str | None = None
    reg: str = "early_stop"
    replacement: str = "replace_last"
    eps_expand: str = "coverage"
    num_pert: int = 8
    dropout: float = 0.0

    alg_name: str = "GRACE"
    model_name: str = ""
    device: int | str = 0
    batch_size: int = 1
    max_length: int = 40
    model_parallel: bool = False

    def __post_init__(self) -> None:
        for name in ("edit_lr", "eps", "n_iter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise HyperParamsError(f"{name} = {value!r} cannot be used: use a number above 0.")
        if not isinstance(self.inner_params, list) or len(self.inner_params) != 1:
            raise HyperParamsError(f"inner_params = {self.inner_params!r} cannot be used: name one layer's weight.")
        known = {
            "alg_name": ("GRACE",),
            "dist_fn": ("euc",),
            "eps_expand": ("coverage",),
            "replacement": ("replace_last",),
            "val_train": ("sgd",),
            "val_init": ("cold", "warm"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise HyperParamsError(f"{name} = {getattr(self, name)!r} cannot be used: use {' or '.join(values)}.")

    @classmethod
    def from_hparams(cls, hparams_name_or_path: str | Path) -> Self:
        """Read a YAML file; as in EasyEdit, ".yaml" may be left out."""
        path = Path(hparams_name_or_path)
        path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
        try:
            return cls(**yaml.safe_load(path.read_text(encoding="utf-8")))
        except (HyperParamsError, TypeError, yaml.YAMLError) as error:
            raise HyperParamsError(f"{path}: {' '.join(str(error).split())}") from error
