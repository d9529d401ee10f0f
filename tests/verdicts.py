"""What NSE does with a small model of a type, against slow oracles: exact, or refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import oracles
import torch
from tiny import TEMPLATES, tiny_tokenizer

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.values import _rows
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.suffix import SuffixReplay

FACTS = [Fact("Because of {} and", "the wind", "Lyon"), Fact("{} is in", "Rome", "an old town", case_id=1)]
CONTEXTS = TEMPLATES[:2]


@dataclass
class Verdict:
    """what: exact, refused or not built. why: the sentence of a refusal. errors: relative, by what was compared."""

    what: str
    why: str = ""
    w_out: str = ""
    whole_rows: bool = False
    errors: dict[str, float] | None = None


def judge(model, layers, name) -> Verdict:
    """Edit the model; raises what a user would see, unless it is a LayoutError."""
    hparams = NSEHyperParams(
        layers=layers, alpha=1e-9, p=0.8, mom2_update_weight=2.0, v_lr=0.1, v_num_grad_steps=3, max_iterations=1,
        device="cpu", rewrite_module_tmp=name,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    try:
        layout = Layout.of(model, name)
        moments = _moments(layout, layers)
        session = EditSession(model, tokenizer, hparams, moments, list(CONTEXTS))
        values = session.values(FACTS[:1])
    except LayoutError as error:
        return Verdict("refused", str(error))
    oracles.layers_of.cache_clear()
    rows = [encode_fact(tokenizer, fact, CONTEXTS, layout.max_positions) for fact in FACTS]
    errors = {"z": oracles.relative(values[0], oracles.value(model, tokenizer, FACTS[0], CONTEXTS, hparams))}
    errors |= _replayed(model, layout, layers[-1], [row for fact in rows for row in _rows(fact)])
    errors |= _keys(model, layout, layers, rows)
    errors["residual"] = _round(model, session, values, layers[-1])
    w_out = layout.output_matrix(layers[0]).name.removesuffix(".weight").replace(f".{layers[0]}.", ".{}.", 1)
    return Verdict("exact", "", w_out, session.state.replay.whole_rows, errors)


def _moments(layout, layers):
    generator = torch.Generator().manual_seed(1)
    found = {}
    for layer, matrix in layout.output_matrices(layers).items():
        keys = torch.randn(200, matrix.matrix.shape[1], generator=generator, dtype=torch.float64)
        found[layer] = keys.T @ keys / 200
    return found


def _replayed(model, layout, layer, rows) -> dict[str, float]:
    """Logits and the gradient in delta for all rows, and the logits of every second one when the others have left."""
    generator = torch.Generator().manual_seed(3)
    shape = (len(rows), layout.hidden_size)
    delta = (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    places = [(number, at) for number, row in enumerate(rows) for at in range(len(row.ids) - row.lookup)]
    numbers, positions = torch.tensor(places).T
    with frozen(model):
        replay = SuffixReplay(layout, layer, rows, ContextStates())
        logits = replay.logits(delta, numbers, positions)
        weights = torch.randn(logits.shape, generator=generator, dtype=torch.float64) / logits.shape[1]
        (gradient,) = torch.autograd.grad((logits * weights).sum(), delta)
        expected = [
            oracles.run(model, torch.tensor([row.ids]), layer, row.lookup, delta[number])
            for number, row in enumerate(rows)
        ]
        own = torch.cat([full[row.lookup :] for row, (full, _) in zip(rows, expected, strict=True)])
        (own_gradient,) = torch.autograd.grad((own * weights).sum(), delta)
        h = torch.stack([hidden[row.lookup] for row, (_, hidden) in zip(rows, expected, strict=True)]) - delta
        stay = torch.arange(1, len(rows), 2)
        last = torch.tensor([len(rows[number].ids) - rows[number].lookup - 1 for number in stay])
        at_lookup = replay.at_lookup
        replay.keep(stay)
        left = replay.logits(delta[stay], torch.arange(len(stay)), last)
    return {
        "logits": oracles.relative(logits, own),
        "gradient": oracles.relative(gradient, own_gradient),
        "h": oracles.relative(at_lookup, h),
        "early leavers": oracles.relative(left, torch.stack([expected[number][0][-1] for number in stay])),
    }


def _keys(model, layout, layers, rows) -> dict[str, float]:
    """Keys and l_0's output, against the inputs of W_out in the model's own pass over one text."""
    with frozen(model), torch.no_grad():
        keys, outputs = FactSpan(layout, layers, rows, 60).run()
    errors = {"keys": 0.0, "outputs": 0.0}
    for number, fact in enumerate(rows):
        seen = {layer: [] for layer in layers}
        handles = [
            matrix.module.register_forward_pre_hook(lambda _, args, own=seen[layer]: own.append(args[0]))
            for layer, matrix in layout.output_matrices(layers).items()
        ]
        with torch.no_grad():
            h = [oracles.run(model, torch.tensor([row.ids]), layers[-1])[1][row.lookup] for row in fact.rewrites]
        for handle in handles:
            handle.remove()
        for layer in layers:
            bare, after = (k.reshape(-1, k.shape[-1])[row.lookup] for k, row in zip(seen[layer], fact.rewrites, strict=True))
            errors["keys"] = max(errors["keys"], oracles.relative(keys[layer][number], (bare + after) / 2))
        errors["outputs"] = max(errors["outputs"], oracles.relative(outputs[number], h[0]))
    return errors


def _round(model, session, values, layer) -> float:
    """How far the residual that a round reports is from that of the edited model, relative to the first residual."""
    frame = session.edit_with_values(FACTS[:1], values).frame
    tokenizer, fact = session.tokenizer, FACTS[0]
    at = oracles.subject_end(tokenizer, fact.text, fact.prompt.index("{}") + len(fact.subject))
    with torch.no_grad():
        h = oracles.run(model, oracles.ids_of(tokenizer, fact.text), layer)[1][at]
    return abs(float((values[0] - h).norm()) - frame["residual"][0]) / frame["residual_before"][0]
