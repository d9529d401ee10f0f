"""The command line: `nse demo`, `nse moments`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from nse_plugin.hparams import NSEHyperParams


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors a user can mend are one line, without a traceback."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        arguments.run(arguments)
    except (ValueError, ArithmeticError, OSError, RuntimeError, ImportError) as error:
        if arguments.traceback:
            raise
        print("nse:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nse: stopped.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nse", description="Neuron-level sequential editing of language models.")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="edit an embedded model through EasyEdit, and measure it")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder for tables and plot (%(default)s)")
    demo.set_defaults(run=_demo)

    moments = commands.add_parser("moments", help="measure the second moments of a model, as EasyEdit's npz files")
    moments.add_argument("--model", required=True, help="folder or hub name of a transformers causal language model")
    moments.add_argument("--hparams", help="a preset's name or a YAML/JSON file; default: the preset for the model")
    moments.add_argument("--layers", help="layers to measure, e.g. 4,5,6,7,8; default: those of the hyperparameters")
    moments.add_argument("--text", help="'self', 'wikipedia', or a .txt, .jsonl, .parquet file; default: mom2_dataset")
    moments.add_argument("--samples", type=int, help="documents to read, or passages to write; default: mom2_n_samples")
    moments.add_argument("--stats-dir", help="where the files go; default: stats_dir, or the user's cache")
    moments.add_argument("--device", default="cpu", help="e.g. cpu or cuda:0 (%(default)s)")
    dtypes = ("float32", "float64", "bfloat16", "float16")
    moments.add_argument("--dtype", default="float32", choices=dtypes, help="what the model is loaded in (%(default)s)")
    moments.set_defaults(run=_moments)
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from nse_plugin.demo.run import run_demo

    run_demo(arguments.out)


def _moments(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nse_plugin.models.layout import Layout
    from nse_plugin.second_moments import moments_file, second_moments

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {arguments.device}: there is no CUDA here; use --device cpu.")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    model.to(arguments.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    hparams = _moments_hparams(arguments, model)
    layout = Layout.of(model, hparams.rewrite_module_tmp)
    second_moments(layout, tokenizer, hparams)
    for matrix in layout.output_matrices(hparams.layers).values():
        print(moments_file(layout, matrix, hparams))


def _numbers(layers: str) -> list[int]:
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise ValueError(f"--layers {layers}: write numbers with commas between them, e.g. 4,5,6.") from None


def _moments_hparams(arguments: argparse.Namespace, model: object) -> NSEHyperParams:
    chosen = {
        "layers": _numbers(arguments.layers) if arguments.layers else None,
        "mom2_dataset": arguments.text,
        "mom2_n_samples": arguments.samples,
        "stats_dir": arguments.stats_dir,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    if arguments.hparams is None:
        # alpha plays no part here; a model nobody tuned needs only its layers
        return NSEHyperParams.for_model(model, **({"alpha": 1.0} if "layers" in given else {}), **given)
    hparams = NSEHyperParams.from_hparams(arguments.hparams)
    for name, value in given.items():
        setattr(hparams, name, value)
    hparams.check()
    return hparams
