"""Imports go in one direction: from the command line down to modules that know nothing of models."""

from __future__ import annotations

import pytest

grimp = pytest.importorskip("grimp", reason="comes with the extra dev")

# The rooms by floors, from the top; a room imports its own floor and those below.
FLOORS = (
    {"cli"},
    {"demo", "experiments"},
    {"baselines", "cluster"},
    {"easyedit"},
    {"session", "patch"},
    {"method", "moments"},
    {"replay", "evaluation"},
    {"models"},
    {"facts", "hparams", "store"},
    {"support"},
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# Former names of modules, which hand on to where things are now.
FORMER = {
    f"nse_plugin.{name}"
    for name in (
        "datasets", "second_moments", "models.past", "models.replay", "evaluation.fluency", "experiments.cell",
        "experiments.comparison", "experiments.instruments",
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """(module, what it imports), those within functions and for type checkers too."""
    graph = grimp.build_graph("nse_plugin", cache_dir=None)
    return {(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)}


def room(module: str) -> str | None:
    """None: the package itself."""
    return module.split(".")[1] if "." in module else None


def test_every_room_has_a_floor(imports):
    rooms = {room(module) for pair in imports for module in pair if module not in FORMER} - {None}
    assert rooms - FLOOR.keys() == set()


def test_no_import_climbs(imports):
    climbing = [
        f"{one} imports {other}"
        for one, other in sorted(imports)
        if one not in FORMER and room(one) and room(other) and FLOOR[room(one)] > FLOOR[room(other)]
    ]
    assert climbing == []


def test_only_users_take_the_former_names(imports):
    assert [f"{one} imports {other}" for one, other in sorted(imports) if other in FORMER] == []
