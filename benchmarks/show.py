"""Show results as tables in the terminal, as a CSV file and as a plot."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import floors
from benchmarks.comparisons.row import Row
from benchmarks.facts import RELATION_LENGTHS, make_facts
from benchmarks.flat import Growth
from benchmarks.setting import Setting
from benchmarks.trend import commit_here, now

RESULTS = Path(__file__).with_name("results")
COLUMNS = (
    "commit", "when", "case", "stage", "facts", "relation", "peer", "ours_seconds", "peer_seconds", "ratio", "repeats",
)  # fmt: skip
Floors = Mapping[tuple[str, int], float]  # FLOP ratio by stage (z step, z whole) and relation length


def comparison(console: Console, name: str, rows: Sequence[Row], least: Floors) -> None:
    """Print the table of one case, with a line for each stage, number of facts, relation length and peer."""
    headings = ("stage", "facts", "rel.", "peer", "ours s", "peer s", "ratio", "FLOP", "differ")
    table = _table(f"{name}: CPU seconds, ours and the peer's", headings, texts=("stage", "peer"))
    for row in rows:
        floor = _floor(row, least)
        table.add_row(
            row.stage,
            str(row.facts or ""),
            str(row.relation or ""),
            "" if row.peer_seconds is None else row.peer,
            f"{row.ours_seconds:.3g}",
            "" if row.peer_seconds is None else f"{row.peer_seconds:.3g}",
            "" if row.ratio is None else f"[bold]{row.ratio:.1f}[/bold]",
            "" if floor is None else f"{floor:.1f}",
            "" if row.difference is None else f"{row.difference:.0e}",
        )
    console.print(table)


def ratio_floors(setting: Setting) -> Floors:
    """Return the ratio of the peers' FLOP to the least FLOP needed, for the setting's facts.

    Both are computed for the shape of SmolLM2 in `floors.SHAPES`.
    """
    found = {}
    for relation in RELATION_LENGTHS:
        tokens = [floors.Tokens.of(prompts) for prompts in setting.encoded(make_facts(10, relation))]
        shape = floors.SHAPES[0]
        theirs, ours = (
            floors.mean([sum(step(shape, one)) for one in tokens]) for step in (floors.peers_step, floors.least_step)
        )
        found["z step", relation] = theirs / ours
        theirs, ours = (
            floors.mean([run(shape, one) for one in tokens]) for run in (floors.peers_run, floors.least_run)
        )
        found["z whole", relation] = theirs / ours
    return found


def floors_of_models(console: Console, setting: Setting) -> None:
    """Print the FLOP of optimising z per fact for several models, none of which is loaded."""
    headings = ("model", "relation", "peers' way", "floor", "ratio")
    table = _table("FLOP of a z run a fact (10^12), all steps, from the models' shapes", headings, texts=("model",))
    for shape in floors.SHAPES:
        for relation in RELATION_LENGTHS:
            tokens = [floors.Tokens.of(prompts) for prompts in setting.encoded(make_facts(10, relation))]
            theirs, ours = (
                floors.mean([run(shape, one) for one in tokens]) for run in (floors.peers_run, floors.least_run)
            )
            table.add_row(
                shape.name, str(relation), f"{theirs / 1e12:.2f}", f"{ours / 1e12:.2f}", f"{theirs / ours:.1f}"
            )
    console.print(table)


def memory(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    headings = ("side", "facts", "model loaded", "peak", "peak above loaded")
    table = _table("Peak resident memory of one round, MB", headings, texts=("side",))
    for line in found:
        above = line["peak_mb"] - line["loaded_mb"]
        table.add_row(
            line["side"], str(line["facts"]), f"{line['loaded_mb']:.0f}", f"{line['peak_mb']:.0f}", f"{above:.0f}"
        )
    console.print(table)


def effects(console: Console, title: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of variants. found: {variant: {column: figure}}, with at least one variant."""
    columns = list(next(iter(found.values())))
    table = _table(title, ("way", *columns), texts=("way",))
    for way, figures in found.items():
        table.add_row(way, *(f"{figures[column]:.2f}" for column in columns))
    console.print(table)


def flat(console: Console, growth: Growth) -> None:
    title = f"A round after many: medians of ten rounds from round 2 on, and of the last ten of {growth.rounds}"
    table = _table(title, ("", "early", "late", "late / early"), texts=("",))
    for name, early, late in (
        ("CPU seconds", growth.early_seconds, growth.late_seconds),
        ("resident MB", growth.early_mb, growth.late_mb),
    ):
        table.add_row(name, f"{early:.3g}", f"{late:.3g}", f"{late / early:.2f}")
    console.print(table)


def shares(console: Console, found: Mapping[str, Mapping[str, float]]) -> None:
    table = _table("Where our CPU time goes", ("stage", "part", "seconds", "share"), texts=("stage", "part"))
    for stage, parts in found.items():
        total = sum(parts.values())
        for part, seconds in parts.items():
            table.add_row(stage, part, f"{seconds:.2f}", f"{seconds / total:.0%}")
    console.print(table)


def keep(rows: Sequence[Row], least: Floors, name: str, folder: Path = RESULTS) -> Path:
    """Write the rows as `name`.csv and a plot as `name`.png into the folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    commit, when = commit_here(), now()
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            values = {name: getattr(row, name) for name in COLUMNS[2:]}
            writer.writerow({"commit": commit, "when": when, **values})
    plot(rows, least, folder / f"{name}.png", f"commit {commit}, {when[:10]}")
    return folder


def plot(rows: Sequence[Row], least: Floors, file: Path, caption: str) -> None:
    """Plot one bar per ratio, coloured by peer, with a black mark at the ratio of the FLOP."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.ratio is not None]
    peers = list(dict.fromkeys(row.peer for row in shown))
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    marked = False
    for place, row in enumerate(shown):
        assert row.ratio is not None
        axes.barh(place, row.ratio, color=f"C{peers.index(row.peer)}")
        floor = _floor(row, least)
        if floor is not None:
            axes.plot(
                [floor, floor], [place - 0.4, place + 0.4], color="black", label="" if marked else "the FLOP's ratio"
            )
            marked = True
        around = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        axes.text(row.ratio * 1.04, place, f"{row.ratio:.1f}", va="center", fontsize=7, bbox=around)
    axes.set_yticks(range(len(shown)), [_label(row) for row in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.8, 2 * max((row.ratio or 1 for row in shown), default=1))
    axes.set_xticks(ticks := (1, 2, 5, 10, 20, 50, 100), [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("the peer's CPU seconds / ours")
    axes.set_title(f"One thread, in turns ({caption})", fontsize=9)
    for number, peer in enumerate(peers):
        axes.barh(0, 0, color=f"C{number}", label=peer)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=130)


def _table(title: str, headings: Sequence[str], texts: Sequence[str]) -> Table:
    """Make an empty table. texts: headings of the columns with words; the other columns hold numbers, aligned right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in texts else "right", no_wrap=True)
    return table


def _floor(row: Row, least: Floors) -> float | None:
    return least.get((row.stage.removesuffix(", at once"), row.relation or 0))


def _label(row: Row) -> str:
    parts = [row.stage if row.stage.startswith(row.case) else f"{row.case}: {row.stage}"]
    if row.facts:
        parts.append("1 fact" if row.facts == 1 else f"{row.facts} facts")
    if row.relation and row.stage.startswith("z step"):
        parts.append(f"relation {row.relation}")
    return ", ".join(parts)
