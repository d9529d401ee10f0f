"""Configuration of an experiment, composed by hydra. An error message is one sentence that lists the choices."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.checks import CommandLineError
from nse_plugin.experiments.plan.model import EMBEDDED, is_path
from nse_plugin.experiments.plan.presets import NSE, PAPER
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.support.suggestions import did_you_mean

_CONF = "nse_plugin.experiments.conf"
_SHOWS = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
_SWITCHES = ("--multirun", "-m", "--run", "-r", "--resolve")
_TAKE_A_WORD = (
    "--cfg", "-c", "--info", "-i", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
    "-cd", "--experimental-rerun",
)  # fmt: skip
_NOT_SWEPT = ("store", "alg_name", "model_name", "device")  # set by the sweep, or used by EasyEdit to load a model
# used in conf/methods: settings of NSE that belong to the paper start from its setting
OmegaConf.register_new_resolver("paper", lambda preset: PAPER if preset == NSE else preset, replace=True)
OmegaConf.register_new_resolver(  # used in the help texts of the applications
    "choices",
    lambda group: ", ".join(sorted(Path(file.name).stem for file in (resources.files(_CONF) / group).iterdir())),
    replace=True,
)
ConfigStore.instance().store(
    group="fields",
    name="nse",
    node={spec.name: None for spec in dataclasses.fields(NSEHyperParams) if spec.name not in _NOT_SWEPT},
)


def composed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose the configuration `name` with `overrides`, as plain values. Raises PlanError."""
    with initialize_config_module(_CONF, version_base="1.3"):
        try:
            return plain(compose(name, _with_own_model(overrides)))
        except MissingConfigException as error:
            raise PlanError(_no_such_choice(GlobalHydra.instance().config_loader(), error)) from None
        except HydraException as error:
            raise PlanError(_no_such_setting(name, error)) from None


def launched(name: str, arguments: Sequence[str], job: Callable[[DictConfig], Any]) -> None:
    """Run `job` with hydra as the application `nse <name>`, with the `arguments` of the command line. Raises PlanError,
    and whatever the job raises."""
    sys.argv = [f"nse {name}", *_with_own_model(arguments)]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors are raised, not printed with a trace
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{_CONF}", config_name=name)(job)()
    except HydraException as error:
        raise PlanError(" ".join(str(error).split())) from error


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether hydra is only asked to show something: help, settings, its own state."""
    return any(word.split("=")[0] in _SHOWS for word in arguments)


def plain(config: DictConfig) -> dict[str, Any]:
    """Convert a composed configuration to plain values."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_words(arguments: Sequence[str]) -> None:
    """Raise CommandLineError for a word that is neither a setting nor one of hydra's options."""
    for before, word in itertools.pairwise(["", *arguments]):
        option = word.split("=")[0] in (*_SWITCHES, *_SHOWS, *_TAKE_A_WORD)
        if not (option or before in _TAKE_A_WORD or ("=" in word and not word.startswith("--")) or word[:1] == "~"):
            raise CommandLineError(f"{word!r} is no setting: settings are written NAME=VALUE, for example facts=4.")


def _with_own_model(arguments: Sequence[str]) -> list[str]:
    """Replace `model=FOLDER` and `model=OWNER/NAME` by the settings they stand for. Raises CommandLineError."""
    there = {Path(file.name).stem for file in (resources.files(_CONF) / "model").iterdir()}
    settings: list[str] = []
    check_words(arguments)
    for word in arguments:
        key, _, value = word.partition("=")
        source = value.strip("'\"")
        if key == "model" and source not in there and _is_source(source):
            settings += ["model=own", 'model.source="{}"'.format(source.replace('"', r"\""))]
        else:
            settings.append(word)
    return settings


def _is_source(value: str) -> bool:
    return value == EMBEDDED or "/" in value or is_path(value) or Path(value).is_dir()


def _no_such_choice(loader: ConfigLoader, error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = loader.get_group_options(group, ObjectType.CONFIG)
    own = " A model of your own is given by its folder or its hub name, OWNER/NAME." if group == "model" else ""
    return f"{group}: {choice!r} is not known; {did_you_mean(choice, options)}{own}"


def _no_such_setting(config: str, error: HydraException) -> str:
    missing = re.match(r"Could not override '([^']+)'", str(error))
    if missing is None:
        return " ".join(str(error).split())
    *parents, key = missing[1].split(".")
    there: Any = compose(config)
    for parent in parents:
        there = there.get(parent) if OmegaConf.is_dict(there) else None
    if not OmegaConf.is_dict(there):
        return f"There is no setting {missing[1]!r}: `nse {config} --help` shows them all."
    near = get_close_matches(key, map(str, there), n=1)
    if near:
        return f"There is no setting {missing[1]!r}; did you mean {'.'.join([*parents, *near])!r}?"
    names = ", ".join(sorted(map(str, there)))
    return f"There is no setting {missing[1]!r}; there are {names}. A new one is given with + before it."
