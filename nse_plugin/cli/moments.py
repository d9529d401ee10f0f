"""`nse moments`: measure the second moments of a model and keep them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nse_plugin.cli.options import (
    add_model,
    check_counts,
    check_device,
    checked_config,
)
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.support.files import check_home

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nse_plugin.cli.options import Commands


DOCUMENTS = 100_000  # documents to read of a text, the number in EasyEdit's files


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("moments", help="measure the second moments of a model and keep them")
    add_model(command)
    command.add_argument("--hparams", help="a preset's name or a YAML/JSON file; default: the preset for the model")
    command.add_argument("--layers", help="layers to measure, e.g. 4,5,6,7,8; default: those of the hyperparameters")
    command.add_argument("--text", help="'self', 'wikipedia', or a .txt, .jsonl, .parquet file; default: mom2_dataset")
    command.add_argument("--samples", type=int, help="documents to read (100000), or passages to write")
    command.add_argument("--stats-dir", help="keep them there, as EasyEdit's npz files")
    command.add_argument("--store", help="keep them in this store; default: ~/.cache/nse-plugin/moments")
    command.add_argument("--workers", type=int, help="processes to spread the text over (Ray); default: this one")
    command.add_argument("--address", help="of a Ray cluster, e.g. ray://host:10001 or auto; default: this machine")
    command.set_defaults(run=run, goes_on=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from nse_plugin.models.layout import Layout
    from nse_plugin.models.loading import load
    from nse_plugin.moments.provider import moments_file, second_moments
    from nse_plugin.moments.storage import moments_folder
    from nse_plugin.replay.check import check_model
    from nse_plugin.store import Store

    check_counts(arguments, "samples", "workers")
    _check_text(arguments.text)
    check_device(arguments, elsewhere=arguments.address is not None)
    hparams = _moments_hparams(arguments, checked_config(arguments))
    if hparams.stats_dir is None and hparams.store is None:
        check_home()  # raise now, before measuring what could not be kept
    if hparams.store is not None:
        Store(hparams.store).check_folder()
    spread = arguments.workers is not None or arguments.address is not None
    # With workers, this process needs the model only for its fingerprint and names.
    model, tokenizer = load(arguments.model, arguments.dtype, "cpu" if spread else arguments.device)
    layout = Layout.of(model, hparams.rewrite_module_tmp)
    check_model(layout, hparams.layers, tokenizer)  # now, not after hours of measuring
    if spread:
        from nse_plugin.cluster.moments import measure_on
        from nse_plugin.cluster.pool import workers

        count = 2 if arguments.workers is None else arguments.workers
        with workers(count, arguments.address, arguments.model, arguments.dtype, arguments.device, hparams) as pool:
            second_moments(layout, tokenizer, hparams, measure_on(pool))
    else:
        second_moments(layout, tokenizer, hparams)
    where = [name for name in ("store", "stats_dir") if getattr(hparams, name) is not None][-1:]
    if hparams.stats_dir is None:
        print(moments_folder(hparams))
    else:
        for matrix in layout.output_matrices(hparams.layers).values():
            print(moments_file(layout, matrix, hparams))
    wanted = ", ".join(f"{name}: {getattr(hparams, name)}" for name in ("mom2_dataset", "mom2_n_samples", *where))
    print(f"Edits find them with {wanted}.", file=sys.stderr)


def _check_text(text: str | None) -> None:
    from nse_plugin.moments.corpora import SELF_WRITTEN, WIKIPEDIA

    if text in (None, SELF_WRITTEN, WIKIPEDIA):
        return
    if Path(text).suffix not in (".txt", ".jsonl", ".parquet"):
        raise ValueError(f"--text {text}: give 'self', 'wikipedia', or a .txt, .jsonl or .parquet file.")
    if not Path(text).is_file():
        raise ValueError(f"--text {text}: there is no such file; give its path, or 'self'.")


def _numbers(layers: str) -> list[int]:
    try:
        numbers = [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise ValueError(f"--layers {layers}: write numbers with commas between them, e.g. 4,5,6.") from None
    if numbers != sorted(set(numbers)):
        raise ValueError(f"--layers {layers}: list them ascending, each once.")
    return numbers


def _moments_hparams(arguments: argparse.Namespace, config: PretrainedConfig) -> NSEHyperParams:
    """Return the hyperparameters that the options ask for. config: the model's."""
    from nse_plugin.experiments.plan.model import shape_of, tuned_name
    from nse_plugin.moments.corpora import SELF_WRITTEN

    samples = arguments.samples
    if samples is None and arguments.text not in (None, SELF_WRITTEN):
        samples = DOCUMENTS
    chosen = {
        "layers": _numbers(arguments.layers) if arguments.layers else None,
        "mom2_dataset": arguments.text,
        "mom2_n_samples": samples,
        "stats_dir": arguments.stats_dir,
    }
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if arguments.store is not None:
        given.update(store=arguments.store, stats_dir=arguments.stats_dir)  # else a preset's stats_dir would be used
    if arguments.hparams is not None:
        hparams = NSEHyperParams.from_hparams(arguments.hparams)
        for name, value in given.items():
            setattr(hparams, name, value)
        hparams.check()
        return hparams
    if "layers" in given:  # alpha has no effect here
        return NSEHyperParams.for_model(SimpleNamespace(config=config), **{"alpha": 1.0, **given})
    if tuned_name(config) is None:
        raise ValueError(
            f"--layers is missing, and there are no tuned hyperparameters for {arguments.model}, {shape_of(config)}: "
            "give the layers to measure, e.g. --layers 4,5,6, or --hparams FILE.yaml (`nse tune` writes one)."
        )
    return NSEHyperParams.for_model(SimpleNamespace(config=config), **given)
