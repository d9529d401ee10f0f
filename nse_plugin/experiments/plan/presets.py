"""Hyperparameters that a method starts from on a model: a file of the user's, or a preset of this package.

The presets of this package were made for a few models. They are used for any model of the same shape, whatever its
name, and for no model of another shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from nse_plugin.experiments.plan.checks import PlanError
from nse_plugin.experiments.plan.model import (
    ModelChoice,
    is_bundled,
    model_config,
    model_tokenizer,
    shape_of,
    tuned_name,
)
from nse_plugin.facts import FactError
from nse_plugin.hparams import TUNED_FOR, HyperParamsError, NSEHyperParams
from nse_plugin.hparams.model import text_config
from nse_plugin.models.chat import frames

if TYPE_CHECKING:
    from nse_plugin.experiments.plan.cell import CellPlan
    from nse_plugin.experiments.plan.comparison import MethodChoice

NSE = "NSE"
PAPER = "NSE-paper"  # NSE's presets, in the paper's setting where another one is the default
NEEDED = {"layers", "alpha"}  # fields of NSEHyperParams without a default


def check_presets(methods: Mapping[str, MethodChoice], model: ModelChoice) -> None:
    """Raise PlanError if NSE's hyperparameters cannot be used on this model, or if methods have no hyperparameters to
    start from; one message names all of these methods."""
    for name, choice in methods.items():
        if choice.alg_name == NSE:
            _check_of_nse(name, choice, model)
    lacking = [name for name, choice in methods.items() if not _has_start(choice, model)]
    if not lacking:
        return
    remedies = ["give " + " ".join(f"methods.{name}.preset=FILE.yaml" for name in lacking)]
    of_nse = [name for name in lacking if methods[name].alg_name == NSE]
    if of_nse:
        remedies[0] += f" ({_tune(model)} writes NSE's)"
        remedies.append(
            f"give {of_nse[0]} layers and alpha, '+methods.{of_nse[0]}.hparams={{layers: [...], alpha: ...}}'"
        )
    others = [name for name in lacking if name not in of_nse]
    if others:
        remedies.append(f"leave {', '.join(others)} out of methods")
    raise PlanError(_lacks(lacking, model, remedies))


def _check_of_nse(name: str, choice: MethodChoice, model: ModelChoice) -> None:
    """Raise PlanError if the hyperparameters of NSE cannot be used on this model."""
    path = preset_of(choice, model)
    given = {"layers": [0], "alpha": 1.0, **choice.hparams}  # another check reports missing ones
    try:
        if path is None:
            found = NSEHyperParams.for_model("", **given)
        else:
            found = NSEHyperParams.from_hparams(path).with_overrides(**choice.hparams)
        found.check()
    except HyperParamsError as error:
        raise PlanError(f"methods.{name}: {error}") from error
    _check_layers(f"methods.{name}: layers", found, model)
    _check_chat(f"methods.{name}.hparams.", found, model)


def _check_layers(field: str, hparams: NSEHyperParams, model: ModelChoice) -> None:
    count = text_config(model_config(model.source)).num_hidden_layers
    if max(hparams.layers) > count - 2:
        raise PlanError(
            f"{field} = {[*hparams.layers]} cannot be used: {model.name} has {count} layers, counted from 0, and the "
            f"last that can be edited is {count - 2}."
        )


def _check_chat(where: str, hparams: NSEHyperParams, model: ModelChoice) -> None:
    """Raise PlanError if facts are to be written in a chat template that the model's tokenizer does not have."""
    if hparams.chat is False:
        return
    try:
        frames(model_tokenizer(model.source), hparams.chat)
    except FactError as error:
        raise PlanError(f"{where}{error}") from None


def check_preset_of_sweep(plan: CellPlan) -> None:
    """Raise PlanError if a cell has no hyperparameters to start from on this model, edits layers that cannot be edited,
    or uses a chat template that the tokenizer does not have; HyperParamsError for an unusable preset or
    hyperparameter."""
    config = model_config(plan.model.source)
    if plan.preset is None and tuned_name(config) is None and not plan.nse.keys() >= NEEDED:
        remedies = [f"give preset=FILE.yaml ({_tune(plan.model)} writes one)", "nse.layers=[...] and nse.alpha=..."]
        raise PlanError(_lacks([NSE], plan.model, remedies))
    hparams = plan.hparams(SimpleNamespace(config=config))
    _check_layers("layers", hparams, plan.model)
    _check_chat("nse.", hparams, plan.model)


def _lacks(names: Sequence[str], model: ModelChoice, remedies: Sequence[str]) -> str:
    return (
        f"There are no hyperparameters for {', '.join(names)} on {model.name}, {shape_of(model_config(model.source))}: "
        f"those that come with this package are of other models; {', or '.join(remedies)}."
    )


def _tune(model: ModelChoice) -> str:
    return f"`nse tune --model {model.source} --facts FILE`"


def preset_of(choice: MethodChoice, model: ModelChoice) -> Path | None:
    """Return a method's file of hyperparameters for a model. Returns None if there is none: NSE can then use its
    defaults, with given layers and alpha. Raises PlanError if a named file does not exist, HyperParamsError if a named
    folder is not in hparams/."""
    if Path(choice.preset).suffix in (".yaml", ".yml"):
        path = Path(choice.preset).expanduser()
        if not path.is_file():
            raise PlanError(f"preset = {choice.preset!r}: there is no such file.")
        return path
    return _bundled_file(choice.preset, model)


def _has_start(choice: MethodChoice, model: ModelChoice) -> bool:
    return preset_of(choice, model) is not None or (choice.alg_name == NSE and choice.hparams.keys() >= NEEDED)


def _bundled_file(method: str, model: ModelChoice) -> Path | None:
    """Return the file hparams/<method>/<name>.yaml, where name is the model's own, or that of the presets for its
    shape. Returns None if there is no such file; raises HyperParamsError for an unknown method. `NSE-paper` stands for
    hparams/NSE/<name>-paper.yaml, or hparams/NSE/<name>.yaml for a model whose default is the paper's setting."""
    from nse_plugin.hparams.files import preset_path

    folder, variants = (NSE, ("-paper", "")) if method == PAPER else (method, ("",))
    preset_path(folder, TUNED_FOR[0].aliases[0])  # raises for an unknown method
    names = (None if is_bundled(model.name) else model.name, tuned_name(model_config(model.source)))
    for name in (f"{name}{variant}" for name in names if name is not None for variant in variants):
        try:
            return preset_path(folder, name)
        except HyperParamsError:
            continue
    return None
