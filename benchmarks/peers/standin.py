"""The procedure of MEMIT and of the authors' NSE, written for this benchmark; it is always available, for any model.

It computes the same as this package, at the cost of the published implementations (arXiv 2210.07229 and 2410.04045).
What their public code does is described here; none of it is used:

- z, one fact at a time: every step runs all layers at all positions of all rows (including "{} is a"), padded to the
  longest, and the model's head at every position. For the loss, the head runs once more over the rewrite rows, with a
  log-softmax at every position. delta is added by a hook on layer l_0.
- keys: for each edited layer, a complete forward pass, head included, over all facts in all contexts, at most 128 rows
  at a time.
- residuals: for each edited layer, and once before each pass, a complete forward pass over the bare prompts.
- update: LU in float64; protected keys are kept as their f x f Gram matrix.
- second moments: the text is run once for each layer, up to that layer (both implementations stop there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.setting import Setting
from nse_plugin.facts import Fact
from nse_plugin.method.neurons import select_neurons
from nse_plugin.models.frozen import frozen
from nse_plugin.models.prompts import pad_right

STOP_BELOW = 0.05
ROWS_AT_ONCE = 128
Row = tuple[Sequence[int], int]  # token ids, and the position of the subject's last token


class StandIn:
    """The procedure described in the module's docstring, on a setting whose model `edit` changes in place."""

    name = "stand-in"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._model, self._layout = setting.model, setting.layout

    # -- values ------------------------------------------------------------------------------------------------

    def value(self, fact: Fact, steps: int | None = None, lr: float | None = None) -> Tensor:
        """Compute z of one fact on the current weights, [d]. steps, lr: replace those of the hyperparameters."""
        hparams = self._setting.hparams
        steps, lr = steps or hparams.v_num_grad_steps, lr or hparams.known("v_lr")
        prompts = self._setting.encoded([fact])[0]
        rewrites = prompts.rewrites
        essence = self._setting.tokenizer(f"{fact.subject} is a")["input_ids"]
        ids, mask = pad_right([*(row.ids for row in rewrites), essence], self._layout.device)
        lookups = [*(row.lookup for row in rewrites), prompts.essence.lookup]
        targets = torch.full((len(rewrites), ids.shape[1]), -1, device=ids.device)
        for row, prompt in enumerate(rewrites):
            targets[row, len(prompt.ids) - len(prompt.targets) : len(prompt.ids)] = torch.tensor(prompt.targets)

        kind = next(self._model.parameters())
        delta = torch.zeros(self._layout.hidden_size, dtype=kind.dtype, device=kind.device, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=lr)
        before: Tensor | None = None
        with frozen(self._model), torch.enable_grad(), self._delta_added(delta, lookups) as first_outputs:
            for step in range(steps):
                logits, states = self._forward(ids, mask)
                now = logits[-1, lookups[-1]].log_softmax(dim=-1)
                before = now.detach() if before is None else before
                h = first_outputs[0]
                log_probs = self._model.get_output_embeddings()(states[: len(rewrites)]).log_softmax(dim=-1)
                picked = log_probs.gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0]
                nll = -(picked * (targets >= 0)).sum(dim=1) / len(rewrites[0].targets)
                kl = (now.exp() * (now - before)).sum()
                decay = delta.norm() / h.norm() ** 2
                loss = nll.mean() + hparams.kl_factor * kl + hparams.v_weight_decay * decay
                if loss < STOP_BELOW or step == steps - 1:
                    break
                adam.zero_grad()
                loss.backward()
                adam.step()
                with torch.no_grad():
                    longest = hparams.clamp_norm_factor * h.norm()
                    if delta.norm() > longest:
                        delta *= longest / delta.norm()
        return h + delta.detach()

    @contextmanager
    def _delta_added(self, delta: Tensor, lookups: list[int]) -> Iterator[list[Tensor]]:
        """Add delta [d] to the output of l_0 at every row's lookup position.

        Yields a list that the first forward pass fills with h [d], the output for the first row before delta is added.
        """
        h: list[Tensor] = []
        rows = torch.arange(len(lookups))

        def add(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if not h:
                h.append(hidden[0, lookups[0]].detach().clone())
            changed = hidden.clone()
            changed[rows, lookups] += delta
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        with _hooked(self._layout.layers[self._setting.hparams.layers[-1]], add):
            yield h

    def _forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B, S, V] and the last layer's states after the final norm, [B, S, d]."""
        seen: list[Tensor] = []
        with _hooked(self._layout.stack, lambda _, __, output: seen.append(output.last_hidden_state)):
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask).logits
        return logits, seen[0]

    # -- keys and residuals ------------------------------------------------------------------------------------

    def keys(self, facts: Sequence[Fact], layer: int) -> Tensor:
        """Compute the keys of one layer, [n, f]: the mean of the bare prompt's key and the other contexts' mean key."""
        rows = [row for fact in facts for row in self._prompt_rows(fact)]
        writer = self._layout.output_matrix(layer).module
        by_fact = self._at_lookups(rows, writer, of_input=True).view(len(facts), len(self._setting.contexts), -1)
        return (by_fact[:, 0] + by_fact[:, 1:].mean(dim=1)) / 2

    def outputs(self, facts: Sequence[Fact]) -> Tensor:
        """Compute h, the output of l_0 for the bare prompts at the subject's last token, [n, d]."""
        rows = [self._prompt_rows(fact)[0] for fact in facts]
        return self._at_lookups(rows, self._layout.layers[self._setting.hparams.layers[-1]], of_input=False)

    def _prompt_rows(self, fact: Fact) -> list[Row]:
        """Return the fact's prompt in every context, without its target."""
        rewrites = self._setting.encoded([fact])[0].rewrites
        return [(row.ids[: len(row.ids) - len(row.targets) + 1], row.lookup) for row in rewrites]

    def _at_lookups(self, rows: Sequence[Row], module: nn.Module, of_input: bool) -> Tensor:
        seen: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append(args[0] if of_input else output[0] if isinstance(output, tuple) else output)

        found = []
        for first in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[first : first + ROWS_AT_ONCE]
            ids, mask = pad_right([row for row, _ in chunk], self._layout.device)
            seen.clear()
            with torch.no_grad(), _hooked(module, keep):
                self._model(input_ids=ids, attention_mask=mask)
            found.append(seen[0][torch.arange(len(chunk)), [lookup for _, lookup in chunk]])
        return torch.cat(found)

    # -- update ------------------------------------------------------------------------------------------------

    def solve(self, keys: Tensor, residuals: Tensor, second_moment: Tensor, gram: Tensor, neurons: Tensor) -> Tensor:
        """Compute the change of the columns `neurons` [s] of W_out, [d, s].

        keys: [n, f]. residuals: [n, d]. second_moment: C0, [f, f]. gram: Gram matrix of the protected keys, [f, f].
        """
        k = keys.double()[:, neurons].T
        weight = self._setting.hparams.mom2_update_weight
        matrix = weight * second_moment[neurons][:, neurons].double() + gram[neurons][:, neurons].double() + k @ k.T
        solution: Tensor = torch.linalg.solve(matrix, k)
        return residuals.double().T @ solution.T

    def edit(self, facts: Sequence[Fact], values: Tensor) -> dict[int, Tensor]:
        """Write facts with given values z [n, d] into the model, in `max_iterations - 1` passes over all facts.

        Returns the Gram matrix of the facts' keys by layer, [f, f], which later rounds would protect.
        """
        hparams = self._setting.hparams
        layers = hparams.layers
        for _ in range(hparams.max_iterations - 1):
            self.outputs(facts)  # the published code chooses the facts of a pass by these residuals
            for place, layer in enumerate(layers):
                keys = self.keys(facts, layer)
                neurons = select_neurons(keys, hparams.p, hparams.preset)
                residuals = (values - self.outputs(facts)) / (len(layers) - place)
                none_yet = torch.zeros(keys.shape[1], keys.shape[1])
                delta = self.solve(keys, residuals, self._setting.moments[layer], none_yet, neurons)
                matrix = self._layout.output_matrix(layer).matrix
                matrix[:, neurons] += delta.to(matrix.dtype)
        self.outputs(facts)  # the published code does this once more before it stops
        keys_after = {layer: self.keys(facts, layer) for layer in layers}
        return {layer: keys.T @ keys for layer, keys in keys_after.items()}

    # -- second moments ----------------------------------------------------------------------------------------

    def moments(self, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[int, Tensor]:
        """Compute the mean of k k^T over all tokens of the rows, [f, f], by layer."""
        ids, mask = pad_right(rows, self._layout.device)
        found = {}
        for layer in layers:
            seen: list[Tensor] = []

            def stop(_: nn.Module, args: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
                seen.append(args[0])
                raise _Seen

            handle = self._layout.output_matrix(layer).module.register_forward_pre_hook(stop)
            try:
                with torch.no_grad():
                    self._model(input_ids=ids, attention_mask=mask)
            except _Seen:
                pass
            finally:
                handle.remove()
            k = seen[0][mask.bool()]
            found[layer] = k.T @ k / len(k)
        return found


class _Seen(Exception):
    """Ends a forward pass early."""


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Run the block with a forward hook on a module; a return value other than None replaces the module's output."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
