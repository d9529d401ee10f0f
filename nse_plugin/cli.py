"""The command line: `nse demo`, `nse moments`, `nse values`, `nse compare`, `nse sweep`, `nse tune`,
`nse ability`, `nse train-mend`, `nse store`."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nse_plugin
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.support.files import check_home
from nse_plugin.support.suggestions import number_of

DOCUMENTS = 100_000  # of a text, as EasyEdit's files have it
LOG_WIDTH = 240  # columns of a table where there is no terminal


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors a user can mend are one line, without a traceback."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.rest = rest
    if arguments.rest and arguments.run not in (_compare, _sweep):
        parser.error(f"unrecognized arguments: {' '.join(arguments.rest)}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars would fill a log
    try:
        return arguments.run(arguments) or 0
    except BrokenPipeError:  # `nse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ArithmeticError, OSError, RuntimeError, ImportError) as error:
        if arguments.traceback:
            raise
        print("nse:", _in_shell_words(" ".join(str(error).split()), arguments), file=sys.stderr)
        from nse_plugin.experiments.plan.checks import CommandLineError  # a tenth of a second that others do not need

        return 2 if isinstance(error, CommandLineError) else 1
    except KeyboardInterrupt:
        goes_on = arguments.run in (_compare, _sweep, _tune, _moments, _values)
        print("nse: stopped" + ("; the same command goes on from there." if goes_on else "."), file=sys.stderr)
        return 130


# What Python and hydra call a setting, and the shell an option.
_SHELL_WORDS = (
    (r"^limit (?:=|is) (\S+):", r"--limit \1:"),
    (r", or give None for all\b", ""),
    (r"^skip is (\S+):", r"--skip \1:"),
    (r"^workers = (\S+)", r"--workers \1"),
    (r"^out = ", "--out "),
    ("`out`", "`--out`"),
    (r"\bskip_bad leaves", "--skip-bad leaves"),
    (r"^objective = \[[^\]]*\]: none of the facts of (\S+) has", r"--facts \1: none of them has"),
    (r"pass at least layers=.*`nse tune` find both", "give --hparams FILE.yaml, which `nse tune` writes"),
)


def _in_shell_words(message: str, arguments: argparse.Namespace) -> str:
    if arguments.run in (_compare, _sweep):
        message = re.sub(r"(take \d+ or fewer), or all\b", r"\1, or facts=all for every one", message)
        return re.sub(r"\bskip_bad leaves", "data.skip_bad=true leaves", message)
    if getattr(arguments, "layers", None):
        message = re.sub(r"^layers = \[[^\]]*\]", f"--layers {arguments.layers}", message)
    for pattern, words in _SHELL_WORDS:
        message = re.sub(pattern, words, message)
    return message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nse",
        description="Neuron-level sequential editing of language models.",
        epilog="Exit code: 0 done; 1 not done as asked, or nothing came of it, or `store verify` found damage; "
        "2 a wrong command line; 130 stopped by Ctrl-C.",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("--version", action="version", version=f"nse-plugin {nse_plugin.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="edit an embedded model through EasyEdit, and measure it")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder for tables and plot (%(default)s)")
    demo.set_defaults(run=_demo)

    moments = commands.add_parser("moments", help="measure the second moments of a model and keep them")
    _add_model(moments)
    moments.add_argument("--hparams", help="a preset's name or a YAML/JSON file; default: the preset for the model")
    moments.add_argument("--layers", help="layers to measure, e.g. 4,5,6,7,8; default: those of the hyperparameters")
    moments.add_argument("--text", help="'self', 'wikipedia', or a .txt, .jsonl, .parquet file; default: mom2_dataset")
    moments.add_argument("--samples", type=int, help="documents to read (100000), or passages to write")
    moments.add_argument("--stats-dir", help="keep them there, as EasyEdit's npz files")
    moments.add_argument("--store", help="keep them in this store; default: ~/.cache/nse-plugin/moments")
    moments.add_argument("--workers", type=int, help="processes to spread the text over (Ray); default: this one")
    moments.add_argument("--address", help="of a Ray cluster, e.g. ray://host:10001 or auto; default: this machine")
    moments.set_defaults(run=_moments)

    values = commands.add_parser("values", help="compute values z into a store, for all rounds to come (Ray)")
    _add_model(values)
    values.add_argument("--hparams", help="a preset's name or a YAML/JSON file; default: the preset for the model")
    values.add_argument("--facts", required=True, help="a .csv, .json or .jsonl file, or a known name such as demo")
    _add_skip_bad(values)
    values.add_argument("--limit", type=int, help="the first so many facts; default: all")
    form = "of facts that are to be written in a chat, as a user's message: NAME is one of several chat templates"
    values.add_argument("--chat", nargs="?", const=True, default=False, metavar="NAME", help=form)
    values.add_argument(
        "--store", type=Path, required=True, help="the folder, of this machine; workers need not see it"
    )
    values.add_argument("--workers", type=int, default=2, help="processes that load the model (%(default)s)")
    values.add_argument("--address", help="of a Ray cluster, e.g. ray://host:10001 or auto; default: this machine")
    values.set_defaults(run=_values)

    compare = commands.add_parser("compare", help="methods side by side on the same facts (hydra)", add_help=False)
    compare.add_argument("--skip-bad", action="store_true")  # for data.skip_bad=true
    compare.set_defaults(run=_compare)

    sweep = commands.add_parser("sweep", help="NSE under many hyperparameters, z computed once (hydra)", add_help=False)
    sweep.set_defaults(run=_sweep)

    tune = commands.add_parser(
        "tune",
        help="hyperparameters of NSE for a model that has no preset, as a YAML file",
        epilog="What cannot be cut short is done whatever the budget: second moments, one setting at least, and the "
        "last score on facts that were held out. The same command goes on where it was stopped, and with a larger "
        "--budget where it had no more time: what lies in --out is read again.",
    )
    _add_model(tune)
    facts = "a .csv, .json or .jsonl file, or a known name such as counterfact: 16 facts or more with rephrase and "
    tune.add_argument(
        "--facts", required=True, help=facts + "locality prompts; a third of them, 40 at most, is held out"
    )
    _add_skip_bad(tune)
    tune.add_argument("--budget", default="30m", help="time to spend, e.g. 90s, 30m or 2h (%(default)s)")
    tune.add_argument("--round", type=int, default=10, help="facts written at a time (%(default)s)")
    form = "write facts, and ask them, as a user's message in the chat template (NAME: one of several); both: in plain "
    tune.add_argument("--chat", nargs="?", const=True, default=False, metavar="NAME|both", help=form + "text too")
    tune.add_argument("--out", type=Path, help="folder of the YAML; default: results/tune/<the model's name>")
    tune.set_defaults(run=_tune)

    ability = commands.add_parser("ability", help="what else a model can do, before it was edited and after")
    _add_model(ability)
    ability.add_argument("--edited", nargs="+", default=[], metavar="DIR", help="folders of edited models, if any")
    tasks = "of lm-evaluation-harness, e.g. mmlu,hellaswag; or `paper`: those of the NSE paper, 100 items each"
    ability.add_argument("--tasks", default="", help=tasks)
    form = "JSON lists of question, subject, choices (four) and answer (0 to 3); no network is needed"
    ability.add_argument("--questions", nargs="+", default=[], metavar="FILE", help=form)
    ability.add_argument("--limit", type=int, help="so many items of each, evenly spread; default: all")
    ability.add_argument(
        "--out", type=Path, default=Path("results/ability"), help="folder for the tables (%(default)s)"
    )
    ability.set_defaults(run=_ability)

    mend = commands.add_parser("train-mend", help="train MEND's network for a model, with EasyEdit's trainer")
    mend.add_argument("--model", required=True, help="a model's name in hparams/MEND, e.g. smollm2-135m")
    mend.add_argument("--source", help="folder or hub name of that model; default: where `nse compare` takes it from")
    mend.add_argument("--data", default="counterfact", help="facts to learn from: a file or a known name (%(default)s)")
    _add_skip_bad(mend)
    mend.add_argument("--skip", type=int, default=2000, help="first facts left out, to be edited later (%(default)s)")
    mend.add_argument("--train", type=int, default=500, help="facts to learn from (%(default)s)")
    mend.add_argument("--val", type=int, default=20, help="facts that say which step was best (%(default)s)")
    mend.add_argument("--steps", type=int, help="default: max_iters of the hyperparameters")
    mend.add_argument("--out", type=Path, help="the archive; default: where MEND's hyperparameters look for it")
    mend.set_defaults(run=_train_mend)

    store = commands.add_parser("store", help="look after a store of values z and second moments")
    store.add_argument(
        "what",
        choices=("ls", "verify", "gc"),
        help="ls: list it; verify: read it all, and put aside what is damaged; gc: remove what was put aside as "
        "damaged, and what killed processes left unfinished more than an hour ago",
    )
    store.add_argument("folder", type=Path, help="what `store` was set to")
    store.add_argument(
        "--unused-for", type=float, metavar="DAYS", help="gc: also tensors that nobody used for so many days"
    )
    store.set_defaults(run=_store)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    """What every command says that loads a model of the user's."""
    command.add_argument("--model", required=True, help="folder or hub name of a causal language model, or `embedded`")
    command.add_argument("--device", default="cpu", help="e.g. cpu, cuda:0, or cuda for a GPU a worker (%(default)s)")
    dtypes = ("float32", "float64", "bfloat16", "float16")
    command.add_argument("--dtype", default="float32", choices=dtypes, help="what the model is loaded in (%(default)s)")


def _add_skip_bad(command: argparse.ArgumentParser) -> None:
    command.add_argument("--skip-bad", action="store_true", help="leave malformed records out, and go on without them")


def _store(arguments: argparse.Namespace) -> int | None:
    from nse_plugin.store import Store, StoreError

    days = arguments.unused_for
    if days is not None and (arguments.what != "gc" or not 0 <= days < float("inf")):
        raise StoreError(f"--unused-for {days:g}: it is for `gc`, and takes a number of days, 0 or more.")
    store = Store.at(arguments.folder)
    if arguments.what == "ls":
        entries = store.entries()
        if entries:
            print(f"{'ADDRESS':<12}  {'KIND':<6}  {'BYTES':>11}  OF")
        for entry in entries:
            print(f"{entry.address[:12]}  {entry.kind:<6}  {entry.bytes:>11,}  {entry.about}")
        print(f"{number_of(len(entries), 'tensor')}, {number_of(sum(entry.bytes for entry in entries), 'byte')}")
    elif arguments.what == "verify":
        sound, damaged = store.verify()
        for path in damaged:
            print(f"damaged, put aside: {path}")
        print(f"{sound} sound, {len(damaged)} damaged")
        return 1 if damaged else 0
    else:
        files, freed = store.gc(None if days is None else days * 86400)
        print(f"{number_of(files, 'file')} removed, {number_of(freed, 'byte')}")
    return None


def _train_mend(arguments: argparse.Namespace) -> None:
    from nse_plugin.baselines.hparams import load_hparams
    from nse_plugin.baselines.mend import train_mend
    from nse_plugin.experiments.plan.model import model_config, shape_of, tuned_name
    from nse_plugin.experiments.run.comparison import configured_model
    from nse_plugin.facts.files import load_facts
    from nse_plugin.hparams.files import preset_path
    from nse_plugin.models.loading import load

    _check_counts(arguments, "train", "val", "steps")
    preset = preset_path("MEND", arguments.model)
    facts = load_facts(arguments.data, arguments.train + arguments.val, arguments.skip_bad, skip=arguments.skip).facts
    choice = configured_model(arguments.model)
    config = model_config(arguments.source or choice.source, "--source")
    if tuned_name(config) != arguments.model:
        raise ValueError(f"--source {arguments.source} is {shape_of(config)}, another shape than {arguments.model}'s.")
    model, tokenizer = load(arguments.source or choice.source, choice.dtype, choice.device)
    hparams = load_hparams("MEND", preset, {}, model)
    trained = train_mend(
        model, tokenizer, facts[: arguments.train], facts[arguments.train :], hparams, arguments.out, arguments.steps
    )
    accuracy = trained.validation["edit/acc_val"]
    print(f"{trained.path}: best after step {trained.step}, where it edits {accuracy:.0%} of the validation facts.")


def _compare(arguments: argparse.Namespace) -> None:
    """A hydra application: its settings are `nse compare --help`'s and `name=value`."""
    from nse_plugin.experiments.run.application import compare

    compare([*arguments.rest, *(["data.skip_bad=true"] if arguments.skip_bad else [])])


def _sweep(arguments: argparse.Namespace) -> None:
    """A hydra application too, always a multirun."""
    from nse_plugin.experiments.run.sweep import sweep

    sweep(arguments.rest)


def _tune(arguments: argparse.Namespace) -> None:
    from nse_plugin.experiments.plan import ModelChoice
    from nse_plugin.experiments.plan.model import source_name
    from nse_plugin.experiments.run.tune import tune

    seconds = _seconds(arguments.budget)
    _check_model(arguments)
    _check_device(arguments)
    _check_counts(arguments, "round")
    _check_chat(arguments)
    model = ModelChoice(source_name(arguments.model), arguments.model, arguments.dtype, arguments.device)
    written = tune(
        model,
        arguments.facts,
        seconds=seconds,
        out=arguments.out or Path("results/tune") / model.name,
        round_size=arguments.round,
        skip_bad=arguments.skip_bad,
        chat=arguments.chat,
        tell=_say_at_once,
    )
    print(written)


def _ability(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from nse_plugin.experiments.plan import ModelChoice
    from nse_plugin.experiments.plan.model import source_name
    from nse_plugin.experiments.run.ability import Examination, ability, ability_table, edited_folders

    _check_model(arguments)
    _check_device(arguments)
    model = ModelChoice(source_name(arguments.model), arguments.model, arguments.dtype, arguments.device)
    edited = edited_folders(arguments.edited)
    tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    examination = Examination.of(tasks, arguments.questions, arguments.limit)
    frame = ability(model, edited, examination, arguments.out, tell=_say_at_once)
    # A log is as wide as it must be.
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(ability_table(frame))
    print(arguments.out / "ability.csv")


def _say_at_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _seconds(budget: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(budget[-1:])
    try:
        seconds = float(budget[:-1]) * unit if unit else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--budget {budget}: write a number above 0 and its unit, e.g. 90s, 30m or 2h.")
    return seconds


def _demo(arguments: argparse.Namespace) -> None:
    from nse_plugin.demo.run import run_demo

    run_demo(arguments.out)


def _values(arguments: argparse.Namespace) -> None:
    from nse_plugin.cluster.pool import workers
    from nse_plugin.cluster.values import fill_store
    from nse_plugin.facts.files import load_facts
    from nse_plugin.store import Store

    _check_counts(arguments, "limit", "workers")
    if arguments.address is None:  # else the model need not be on this machine
        _check_model(arguments)
    _check_device(arguments, elsewhere=arguments.address is not None)
    facts = load_facts(arguments.facts, arguments.limit, arguments.skip_bad).facts
    hparams = NSEHyperParams.from_hparams(arguments.hparams) if arguments.hparams else None
    if arguments.chat:
        hparams = _in_chat(hparams, arguments)
    count = arguments.workers
    with workers(count, arguments.address, arguments.model, arguments.dtype, arguments.device, hparams) as pool:
        filled = fill_store(Store(arguments.store), facts, pool)
    for text in filled.failed:
        print(f"not finite, not kept: {text}", file=sys.stderr)
    print(
        f"{number_of(len(facts), 'value')}: {filled.computed} computed by {number_of(count, 'worker')} in "
        f"{filled.seconds:.1f} s after {filled.seconds_loading:.1f} s of loading, {filled.read} read from the store."
        + _repeated(filled.repeated)
        + _shared(filled.shared)
    )


def _in_chat(hparams: NSEHyperParams | None, arguments: argparse.Namespace) -> NSEHyperParams:
    """The hyperparameters, or those of the model, with chat as it was given."""
    from nse_plugin.models.prompts.chat import BOTH

    if arguments.chat == BOTH:
        raise ValueError(
            "--chat both: what is written in plain text and in a chat shares a value that is made in its round, and "
            "nothing could be kept; give --chat, or leave it out."
        )
    config = _check_model(arguments)  # also where the workers are elsewhere: they take its name only
    _check_chat(arguments)
    hparams = hparams or NSEHyperParams.for_model(SimpleNamespace(config=config))
    return hparams.with_overrides(chat=arguments.chat)


def _repeated(count: int) -> str:
    return f" {number_of(count, 'fact')} {'is' if count == 1 else 'are'} there more than once." if count else ""


def _shared(count: int) -> str:
    them = "is about a subject of others or has" if count == 1 else "are about subjects of others or have"
    return f" {number_of(count, 'fact')} {them} several forms: their values are made in their rounds." if count else ""


def _moments(arguments: argparse.Namespace) -> None:
    from nse_plugin.models.layout import Layout
    from nse_plugin.models.loading import load
    from nse_plugin.moments.provider import moments_file, second_moments
    from nse_plugin.moments.storage import moments_folder
    from nse_plugin.replay.check import check_model
    from nse_plugin.store import Store

    _check_counts(arguments, "samples", "workers")
    _check_text(arguments.text)
    _check_device(arguments, elsewhere=arguments.address is not None)
    hparams = _moments_hparams(arguments, _check_model(arguments))
    if hparams.stats_dir is None and hparams.store is None:
        check_home()  # nothing measured could be kept
    if hparams.store is not None:
        Store(hparams.store).check_folder()
    spread = arguments.workers is not None or arguments.address is not None
    # This process then needs the model for its fingerprint and names only.
    model, tokenizer = load(arguments.model, arguments.dtype, "cpu" if spread else arguments.device)
    layout = Layout.of(model, hparams.rewrite_module_tmp)
    check_model(layout, hparams.layers, tokenizer)  # hours of measuring would be of no use
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


def _check_model(arguments: argparse.Namespace) -> Any:
    """The model's configuration. Raises PlanError where there is no model."""
    from nse_plugin.experiments.plan.model import model_config

    return model_config(arguments.model, "--model")


def _check_chat(arguments: argparse.Namespace) -> None:
    """Raise FactError when the model's tokenizer has not the chat template that --chat asks for."""
    from nse_plugin.experiments.plan.model import model_tokenizer
    from nse_plugin.models.prompts.chat import chat_frame, template_of

    if arguments.chat is not False:
        given = template_of(arguments.chat)
        asked = "--chat is given" if given is None else f"--chat is {given}"
        chat_frame(model_tokenizer(arguments.model, "--model"), given, asked=asked, off="leave it out")


def _check_device(arguments: argparse.Namespace, elsewhere: bool = False) -> None:
    """elsewhere: it is another machine's."""
    import torch

    device = arguments.device
    if elsewhere:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            raise ValueError(f"--device {device}: there is no such device; give cpu, cuda, cuda:0 or mps.")
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if device not in here:
        raise ValueError(f"--device {device}: there is no such device here; give {' or '.join(here)}.")


def _check_counts(arguments: argparse.Namespace, *options: str) -> None:
    for option in options:
        count = getattr(arguments, option)
        if count is not None and count < 1:
            raise ValueError(f"--{option} {count}: give a number above 0.")


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


def _moments_hparams(arguments: argparse.Namespace, config: Any) -> NSEHyperParams:
    """config: of the model."""
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
        given.update(store=arguments.store, stats_dir=arguments.stats_dir)  # a preset's stats_dir would come first
    if arguments.hparams is not None:
        hparams = NSEHyperParams.from_hparams(arguments.hparams)
        for name, value in given.items():
            setattr(hparams, name, value)
        hparams.check()
        return hparams
    if "layers" in given:  # alpha plays no part here
        return NSEHyperParams.for_model(SimpleNamespace(config=config), **{"alpha": 1.0, **given})
    if tuned_name(config) is None:
        raise ValueError(
            f"--layers is missing, and there are no tuned hyperparameters for {arguments.model}, {shape_of(config)}: "
            "give the layers to measure, e.g. --layers 4,5,6, or --hparams FILE.yaml (`nse tune` writes one)."
        )
    return NSEHyperParams.for_model(SimpleNamespace(config=config), **given)
