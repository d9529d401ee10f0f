"""Factor a patch's changes into products of two thin matrices: the update of n facts has a rank of about n."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nse_plugin.patch.columns import ChangedColumns, PatchError
from nse_plugin.patch.patch import EditPatch

log = logging.getLogger(__name__)
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM 0.32 accepts for max_lora_rank


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors of one matrix's change, b @ a, in float32.

    name: the matrix's parameter. a: [r, f]. b: [d, r]. rank: the number of directions that are not filled with zeros,
    at most r. whole_rank: the number of directions of the whole change. kept: the share of the change's squared norm
    that the `rank` directions have; 1.0 if these are all. transposed: the module stores the matrix as [f, d].
    """

    name: str
    a: Tensor
    b: Tensor
    rank: int
    whole_rank: int
    kept: float
    transposed: bool


def factors_of(patch: EditPatch, rank: int | None = None) -> dict[int, Factors]:
    """Return the factors by layer, all with the same r: the largest rank of any layer. Factors of lower rank are filled
    with zeros.

    rank: keep at most this many directions per layer, those with the largest singular values. This loses facts: with
    less than one direction per fact they are no longer predicted. Raises PatchError if rank is not above 0.
    """
    if rank is not None and rank < 1:
        raise PatchError(f"rank = {rank} cannot be used: give a number above 0, or none for the whole change.")
    parts = {layer: torch.linalg.svd(_change(one), full_matrices=False) for layer, one in patch.columns.items()}
    ranks = {layer: _rank(sizes, patch.columns[layer]) for layer, (_, sizes, _) in parts.items()}
    r = max(ranks.values()) if rank is None else min(rank, max(ranks.values()))
    _warn(patch, r)
    return {layer: _factors(patch.columns[layer], parts[layer], ranks[layer], r) for layer in parts}


def warn_if_truncated(factors: Mapping[int, Factors]) -> None:
    """Warn if the factors have fewer directions than the change, with the smallest share of its squared norm that any
    layer keeps, and how to count the facts that still hold."""
    layer, least = min(factors.items(), key=lambda item: item[1].kept)
    if least.rank < least.whole_rank:
        log.warning(
            "At rank %d the adapter keeps %.1f%% of the squared norm of the change in layer %d, which has rank %d (no "
            "layer keeps less), so facts are lost: count those that still hold with `nse patch to-lora PATCH --rank %d "
            "--model MODEL --out FOLDER`, or in Python with `nse_plugin.patch.export.truncation.kept_at_rank`.",
            least.rank, 100 * least.kept, layer, least.whole_rank, least.rank,
        )  # fmt: skip


def _change(one: ChangedColumns) -> Tensor:
    """Return the change of the changed columns, [d, m] float64."""
    return (one.new.double() - one.old.double()).T


def _rank(sizes: Tensor, one: ChangedColumns) -> int:
    """Return the number of singular values above the noise of rounding the weights to their dtype, at least 1.

    The noise is modelled as independent numbers with the standard deviation of the rounding error. Their largest
    singular value is about std * (sqrt(d) + sqrt(m)).
    """
    std = torch.finfo(one.new.dtype).eps * float(one.new.double().square().mean().sqrt()) / math.sqrt(12)
    m, d = one.new.shape
    return max(1, int((sizes > 2 * std * (math.sqrt(d) + math.sqrt(m))).sum()))


def _factors(one: ChangedColumns, parts: tuple[Tensor, Tensor, Tensor], own: int, r: int) -> Factors:
    left, sizes, right = parts
    rank = min(own, r)
    root = sizes[:rank].sqrt()
    a, b = torch.zeros(r, one.shape[1]), torch.zeros(one.shape[0], r)
    a[:rank, one.neurons] = (root[:, None] * right[:rank]).float()
    b[:, :rank] = (left[:, :rank] * root).float()
    share = float(sizes[:rank].square().sum() / sizes[:own].square().sum())
    return Factors(one.name, a, b, rank, own, share, one.transposed)


def _warn(patch: EditPatch, r: int) -> None:
    d, f = next(iter(patch.columns.values())).shape
    even = d * f // (d + f)
    if r > even:
        log.warning(
            "At rank %d the two factors have more numbers than the matrices themselves (above %d): to_overlay and "
            "merge write smaller files.", r, even,
        )  # fmt: skip
    if r > VLLM_RANKS[-1]:
        log.warning(
            "vLLM takes no adapter above rank %d, and this one has %d: serve a merged model.", VLLM_RANKS[-1], r
        )
