"""The value step: for every fact, the hidden state z at layer l_0 that makes the model predict the new target.

    z = h + delta,   delta = argmin  mean_contexts(-log P(target)) + kl * KL + wd * norm(delta) / norm(h)^2

(arXiv 2410.04045, eq. 5; MEMIT's `compute_z`). KL compares the next-token distribution after "{subject} is a" with and
without delta, as KL(with || without). Adam starts at 0; after each step delta is projected to
norm(delta) <= clamp * norm(h), and in models that normalise `W_out`'s output to what the edited layers can reach
(`replay/outputs.py`). A fact stops when its loss falls below 0.05; with `z_stop: argmax` it also stops when
its target is the model's most likely answer in all contexts (ENCORE, arXiv 2502.01636): a larger delta would only harm
other text.

Facts of one subject have nearly the same key, so only one vector can be written for all of them: they share delta,
which is optimised on the mean of their losses (MEMIT-Merge, arXiv 2502.07322), in up to `LONG` times as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nse_plugin.evaluation.teacher_forcing import Prediction
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.targets import TargetPredictions, replayed_predictions
from nse_plugin.method.value_optimizer import DeltaOptimizer, contexts_of
from nse_plugin.models.attention import native_grouped_query_attention
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt, FactPrompts
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.outputs import Reach
from nse_plugin.replay.suffix import SuffixReplay
from nse_plugin.support.losses import nll_and_kl

STOP_BELOW = 0.05
# A token with gradients takes as much memory as this many tokens without: activations of all upper layers, keys and
# values of the tokens it attends to, its share of the logits. On a CPU larger batches of facts are hardly faster
# (SmolLM2: batches of 4 take 8% longer than batches of 9); a GPU needs larger batches to be busy, and its memory is
# filled by weights rather than by activations.
GRADIENT, GRADIENT_ON_GPU = 64, 8


def optimize_values(
    layout: Layout,
    prompts: Sequence[FactPrompts],
    hparams: NSEHyperParams,
    on_done: Callable[[int], None] = lambda count: None,
    contexts: ContextStates | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    said: dict[int, TargetPredictions] | None = None,
) -> Tensor:
    """Compute z of every fact on the current weights (`OriginalWeights.rewound` restores the original ones).

    prompts: n facts. on_done: called with the number of facts just finished. contexts: cached states of earlier calls
    on the same weights, to which this call adds its own; None: a new cache. groups: which facts (indices) share delta;
    None: none do. said: filled with the predictions of every fact's target, by the fact's index.
    Returns [n, d] in the model's dtype, float32 at least; a fact whose loss is not finite has a row of NaN.
    """
    prompts = contexts_of(prompts, hparams)
    groups = [[i] for i in range(len(prompts))] if groups is None else groups
    joint = [FactPrompts.joint([prompts[i] for i in members]) for members in groups]
    values: list[Tensor | None] = [None] * len(prompts)
    with torch.inference_mode(False), torch.enable_grad(), frozen(layout.model), native_grouped_query_attention():
        contexts = contexts or ContextStates()
        for chosen in _batches(joint, hparams.tokens_per_batch, layout.device, layout.replay.whole_rows):
            batch = _Batch(layout, hparams.layers[-1], [joint[i] for i in chosen], contexts)
            places = [i for group in chosen for i in groups[group]]
            bare = None if said is None else batch.bare()  # before finished facts are dropped
            own = [joint[i].rewrites[0] for i in chosen]
            z = _optimize(batch, hparams, Reach.of(layout, hparams, own))
            for i, value in zip(places, z, strict=True):
                values[i] = value
            if said is not None and bare is not None:
                before = batch.before or replayed_predictions(*bare, torch.zeros_like(z))
                said.update(
                    zip(places, map(TargetPredictions, before, replayed_predictions(*bare, z - batch.h)), strict=True)
                )
            on_done(len(places))
    return torch.stack([z for z in values if z is not None])


def _batches(
    prompts: Sequence[FactPrompts], tokens_per_batch: int, device: torch.device, whole_rows: bool = False
) -> list[list[int]]:
    """Group facts with suffixes of similar length into batches that are optimised together. A batch has at most
    `tokens_per_batch` tokens (or a single fact), where each suffix token counts as `GRADIENT` (on a GPU
    `GRADIENT_ON_GPU`) tokens; with `whole_rows` each token does."""
    price = GRADIENT if device.type == "cpu" else GRADIENT_ON_GPU
    prefix = price if whole_rows else 1
    weight = [sum(price * (len(row.ids) - row.lookup) + prefix * row.lookup for row in _rows(fact)) for fact in prompts]
    suffix = [max(len(row.ids) - row.lookup for row in fact.rewrites) for fact in prompts]
    batches: list[list[int]] = []
    left = 0
    for i in sorted(range(len(prompts)), key=lambda i: suffix[i]):
        if not batches or weight[i] > left:
            batches.append([])
            left = tokens_per_batch
        batches[-1].append(i)
        left -= weight[i]
    return batches


def _optimize(batch: _Batch, hparams: NSEHyperParams, reach: Reach | None) -> Tensor:
    """Return z of every member of the batch's facts, in their order, [m, d]. reach: of its facts; None: everything."""
    h, members = batch.h, batch.members
    norm = h[batch.first_members].norm(dim=1)
    optimizer = DeltaOptimizer(h[batch.first_members], hparams, batch.are_long)
    active = list(range(len(members)))
    failed: set[int] = set()

    for number in range(max(optimizer.updates)):
        going = [place for place, fact in enumerate(active) if number < optimizer.updates[fact]]
        if len(going) < len(active):
            if not going:
                break
            batch.keep(torch.tensor(going))
            active = [active[place] for place in going]
        delta = optimizer.delta[active].requires_grad_()
        nll, kl = batch.nll_and_kl(delta)
        decay = delta.norm(dim=1) / norm[active] ** 2
        loss = nll + hparams.kl_factor * kl + hparams.v_weight_decay * decay
        failed |= {active[i] for i in (~loss.isfinite()).nonzero()[:, 0].tolist()}
        unfinished = (loss >= STOP_BELOW) & loss.isfinite()
        if hparams.z_stop == "argmax":
            unfinished &= ~batch.is_said
        if not unfinished.any():
            break
        (gradient,) = torch.autograd.grad(loss[unfinished].sum(), delta)
        if not unfinished.all():
            batch.keep(unfinished.nonzero()[:, 0])
        active = [fact for fact, goes_on in zip(active, unfinished.tolist(), strict=True) if goes_on]
        with torch.no_grad():
            optimizer.step(active, gradient[unfinished])
            moved = optimizer.delta[active]
            longest = hparams.clamp_norm_factor * norm[active] / moved.norm(dim=1)
            moved = moved * longest.clamp(max=1)[:, None]
            optimizer.delta[active] = moved if reach is None else reach.nearest(moved, active)
    optimizer.delta[sorted(failed)] = torch.nan
    return h + optimizer.delta.repeat_interleave(torch.tensor(members, device=h.device), dim=0)


class _Batch:
    """n facts whose loss is evaluated together on replayed rows; `keep` drops finished facts.

    A fact's rows are its rewrites, the bare prompt first, and its essence. If the bare prompt begins with the subject,
    the bare prompt and the essence are the same up to the subject's last token, and one row serves both.

    members: how many facts share the value of each of the n, m in all. h: [m, d], l_0's output at the subject's last
    token of the members' bare prompts, float32 at least. first_members: the row in h of each fact's first member.
    before: predictions of the members' targets without delta, available once a loss was evaluated. is_said: [n],
    whether every target token had the largest logit in every context when the loss was last evaluated.
    """

    def __init__(self, layout: Layout, layer: int, prompts: Sequence[FactPrompts], contexts: ContextStates) -> None:
        self._prompts = list(prompts)
        self.members = [fact.members for fact in prompts]
        self.are_long = [fact.members > 1 or fact.in_chat for fact in prompts]
        self.first_members = [sum(self.members[:number]) for number in range(len(prompts))]
        self._replay = SuffixReplay(layout, layer, [row for fact in prompts for row in _rows(fact)], contexts)
        self.before: list[Prediction] = []
        self.is_said = torch.zeros(len(prompts), dtype=torch.bool)
        self._essence_before: Tensor | None = None  # [n, vocabulary], after "{subject} is a"
        start = self._replay.at_lookup
        self._dtype = torch.promote_types(start.dtype, torch.float32)
        self._device = start.device
        self._place()
        self._bare = [
            first + number * (len(fact.rewrites) // fact.members)
            for first, fact in zip(self._first_row, prompts, strict=True)
            for number in range(fact.members)
        ]
        self.h = start[self._bare].to(self._dtype)

    def bare(self) -> tuple[SuffixReplay, list[EncodedPrompt]]:
        """Return a replay of all members' bare prompts alone, and those prompts."""
        rows = [row for fact in self._prompts for row in _rows(fact)]
        return self._replay.part(torch.tensor(self._bare)), [rows[place] for place in self._bare]

    def _place(self) -> None:
        """Find every fact's rows, and every target token's row, position and weight in its fact's mean loss."""
        self._fact_of_row: list[int] = []
        self._first_row: list[int] = []
        self._essence_row: list[int] = []
        self._targets_of: dict[int, slice] = {}  # by row, its slice of the tokens
        rows: list[int] = []
        positions: list[int] = []
        tokens: list[int] = []
        shares: list[tuple[int, float]] = []
        for number, fact in enumerate(self._prompts):
            first = len(self._fact_of_row)
            count = len(_rows(fact))
            self._fact_of_row += [number] * count
            self._first_row.append(first)
            self._essence_row.append(first + len(fact.rewrites) if count > len(fact.rewrites) else first)
            for row, prompt in enumerate(fact.rewrites, first):
                length = len(prompt.targets)
                start = len(prompt.ids) - prompt.lookup - length
                self._targets_of[row] = slice(len(rows), len(rows) + length)
                rows += [row] * length
                positions += range(start, start + length)
                tokens += prompt.targets
                shares += [(number, 1 / length / len(fact.rewrites))] * length
        # The essences' logits come after the targets', each at the subject's last token.
        self._rows = torch.tensor(rows + self._essence_row)
        self._positions = torch.tensor(positions + [0] * len(self._prompts))
        self._tokens = torch.tensor(tokens, device=self._device)
        self._share = torch.zeros(len(self._prompts), len(tokens), dtype=self._dtype)
        for token, (number, share) in enumerate(shares):
            self._share[number, token] = share
        self._share = self._share.to(self._device)

    def nll_and_kl(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first two terms of the loss, [n] each, for delta [n, d]."""
        logits = self._replay.logits(delta[self._fact_of_row], self._rows, self._positions).to(self.h)
        targets = logits.detach()[: len(self._tokens)]
        missed = targets.argmax(dim=-1) != self._tokens
        self.is_said = ~((self._share > 0) & missed).any(dim=1)
        if self._essence_before is None:
            self._essence_before = logits.detach()[len(self._tokens) :].log_softmax(dim=-1)
            own = (self._targets_of[row] for row in self._bare)
            self.before = [Prediction.of(targets[at], self._tokens[at].tolist()) for at in own]
        losses, kl = nll_and_kl(logits, self._tokens, self._essence_before)
        # Masked, because 0 * NaN would spread one fact's NaN to all facts.
        nll = torch.where(self._share > 0, self._share * losses, 0).sum(dim=1)
        return nll, kl

    def keep(self, facts: Tensor) -> None:
        """Keep these facts [m] (indices into the current ones) and drop the others."""
        assert self._essence_before is not None
        stay = set(facts.tolist())
        self._replay.keep(torch.tensor([row for row, fact in enumerate(self._fact_of_row) if fact in stay]))
        self._prompts = [self._prompts[i] for i in facts.tolist()]
        self._essence_before = self._essence_before[facts]
        self._place()


def _rows(fact: FactPrompts) -> list[EncodedPrompt]:
    """Return the rows to replay for a fact: see `_Batch`."""
    if fact.essence.ids == fact.rewrites[0].to_lookup:
        return list(fact.rewrites)
    return [*fact.rewrites, fact.essence]
