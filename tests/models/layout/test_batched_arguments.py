"""The batch dimension of an argument is found by comparing two batch sizes, whatever its shape is."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nse_plugin.models.layout.batched_arguments import Axis, BatchedArguments, UnknownRowsError, without_hidden_states

HEADS, S, D = 4, 3, 2
Pair = namedtuple("Pair", "cos sin")


class Layer(nn.Module):
    def forward(self, hidden, *args, **kwargs):
        return hidden


def numbered(shape, dim, per_row):
    """A tensor whose numbers tell the row they belong to."""
    rows = torch.arange(shape[dim]) // per_row
    return rows.view([-1 if place == dim else 1 for place in range(len(shape))]).expand(shape).clone().float()


def call_of(rows, **changes):
    """What a layer of a model with everything in it is called with."""
    arguments = {
        "alibi": numbered((rows * HEADS, 1, S), 0, HEADS),
        "slopes": torch.zeros(HEADS, 1, S),  # of as many heads as there may be rows
        "positions": numbered((3, rows, S, D), 1, 1),
        "mask": numbered((rows, 1, S, S), 0, 1),
        "shared_mask": torch.zeros(1, 1, S, S),
        "cache_position": torch.arange(S),
        "angles": Pair(numbered((rows, S, D), 0, 1), torch.zeros(1, S, D)),
        "last": numbered((S, rows), 1, 1),
        "nothing": None,
        "scale": 0.5,
        "listed": [numbered((rows,), 0, 1), "a word"],
    }
    return torch.zeros(rows, S, D), {**arguments, **changes}


def found_for(make, layers=1):
    modules = [Layer() for _ in range(layers)]
    batched = BatchedArguments()

    def run(rows):
        for module in modules:
            hidden, kwargs = make(rows)
            module(hidden, **kwargs)

    batched.find(modules, run)
    return batched


@pytest.mark.parametrize("batch", [2, 3, HEADS, 3 * HEADS])
@pytest.mark.parametrize("rows", [[0], [1], [0, 1]])
def test_every_argument_is_cut_along_its_own_dimension(batch, rows):
    batched = found_for(call_of)
    _, kwargs = call_of(batch)
    _, cut = batched.select(0, ((), kwargs), torch.tensor(rows), batch, {})
    _, expected = call_of(2)
    for name, (dim, per_row) in {
        "alibi": (0, HEADS), "positions": (1, 1), "mask": (0, 1), "last": (1, 1)
    }.items():  # fmt: skip
        assert sorted(set(cut[name].flatten().tolist())) == rows
        assert cut[name].shape[dim] == len(rows) * per_row
        if rows == [0, 1]:
            assert torch.equal(cut[name], expected[name])
    assert cut["slopes"].shape == (HEADS, 1, S)
    assert cut["shared_mask"].shape == (1, 1, S, S)
    assert cut["cache_position"].shape == (S,)
    assert type(cut["angles"]) is Pair
    assert cut["angles"].cos[:, 0, 0].tolist() == rows
    assert cut["angles"].sin.shape == (1, S, D)
    assert (cut["nothing"], cut["scale"], cut["listed"][1]) == (None, 0.5, "a word")
    assert cut["listed"][0].tolist() == rows


def test_positional_arguments_are_told_apart_from_hidden_states():
    hidden, mask = torch.zeros(2, S, D), torch.zeros(2, S)
    assert without_hidden_states((hidden, mask), {"a": 1})[1] == ((mask,), {"a": 1})
    found, others = without_hidden_states((), {"hidden_states": hidden, "a": 1})
    assert found is hidden
    assert others == ((), {"a": 1})


def test_it_runs_twice_and_once_for_all():
    ran, module, batched = [], Layer(), BatchedArguments()

    def run(rows):
        ran.append(rows)
        module(call_of(rows)[0])

    batched.find([module], run)
    batched.find([module], run)
    assert ran == [2, 3]
    assert not module._forward_pre_hooks


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_layers_go_on_sharing_what_they_share(kind):
    """Also what one of them writes into it later; what upper layers left there is not cut, but left out."""

    def make(rows):
        return call_of(rows, states=kind({"low": (numbered((rows, S), 0, 1),) * 2}))

    batched = found_for(make, layers=2)
    _, kwargs = make(4)
    kwargs["states"]["high"] = (torch.zeros(17, 5),)  # written while the layers above ran
    kwargs["states"]["note"] = "plain"
    memo = {}
    calls = [batched.select(number, ((), kwargs), torch.tensor([1, 3]), 4, memo)[1] for number in (0, 1)]
    first, second = (call["states"] for call in calls)
    assert first is second
    assert type(first) is kind
    assert sorted(first) == ["low", "note"]
    assert first["low"][0][:, 0].tolist() == [1, 3]
    assert "high" in kwargs["states"]
    assert calls[0]["mask"] is calls[1]["mask"]


def test_a_cache_cuts_itself():
    class Cache:
        def select_rows(self, rows):
            return f"rows {rows.tolist()}"

    batched = found_for(lambda rows: call_of(rows, cache=Cache()))
    _, kwargs = call_of(3, cache=Cache())
    assert batched.select(0, ((), kwargs), torch.tensor([0, 2]), 3, {})[1]["cache"] == "rows [0, 2]"


@dataclass
class BlockMask:
    blocks: torch.Tensor


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            lambda rows: {"mask": torch.zeros(rows + 1, S)},
            r"mask of shape \(3, 3\) for two rows and \(4, 3\) for three",
        ),
        (lambda rows: {"mask": torch.zeros(rows, rows)}, "mask"),
        (lambda rows: {"mask": torch.zeros(2, *[S] * rows)}, "mask"),
        (lambda rows: {"mask": torch.zeros(2, S) if rows == 2 else None}, "mask"),
        (lambda rows: {"count": rows}, "count = 2 for two rows and 3 for three"),
        (lambda rows: {"blocks": BlockMask(torch.zeros(rows, S))}, r"a BlockMask \(blocks\).*cannot be cut"),
    ],
)
def test_what_grows_otherwise_is_refused(changes, words):
    with pytest.raises(UnknownRowsError, match=words):
        found_for(lambda rows: call_of(rows, **changes(rows)))


def test_a_tensor_that_was_not_there_before_is_not_guessed_at():
    batched = found_for(call_of)
    _, kwargs = call_of(4, another=torch.zeros(4, S))
    with pytest.raises(UnknownRowsError, match=r"another of shape \(4, 3\), which it was not called with"):
        batched.select(0, ((), kwargs), torch.tensor([0]), 4, {})
    _, kwargs = call_of(4, mask=torch.zeros(5, 1, S, S))
    with pytest.raises(UnknownRowsError, match=r"mask of shape \(5, 1, 3, 3\) for 4 rows"):
        batched.select(0, ((), kwargs), torch.tensor([0]), 4, {})


def test_axes_are_what_they_say():
    found = found_for(call_of).layers[0]
    assert found[1, "alibi"] == Axis(0, HEADS)
    assert found[1, "positions"] == Axis(1, 1)
    assert found[1, "slopes"] is None
    assert found[1, "angles", 0] == Axis(0, 1)
