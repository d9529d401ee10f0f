"""What NSE does with a small model of a type, against slow oracles: exact, or refused in one sentence."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from small_models import EDITED, NAMES, all_in_double, small_model
from tiny import TEMPLATES, tiny_tokenizer

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.cli.tested_types import EXACT, NOT_MEASURED, REFUSED, MeasuredType
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.values import _rows
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.prompts import encode_fact
from nse_plugin.models.writing import write
from nse_plugin.moments.measure import measure_moments
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.suffix import SuffixReplay
from nse_plugin.support.forward import hooked

FACTS = [Fact("Because of {} and", "the wind", "Lyon"), Fact("{} is in", "Rome", "an old town", case_id=1)]
CONTEXTS = TEMPLATES[:2]


TOLERANCE = 1e-8  # relative, in float64 throughout


def measured(kind: str) -> MeasuredType:
    """Build a small model of a type, edit it, and compare everything with slow oracles. Returns the type's line in the
    table; raises what a user would see if it is no refusal, and AssertionError if something is not exact."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            model = small_model(kind)
            all_in_double(patch)
            _check_model_itself(model)
        except Exception as error:  # of any kind: it is the model's or its configuration's own
            return MeasuredType(kind, NOT_MEASURED, why=_in_one_line(error))
        layers, name = EDITED.get(kind, [1, 2]), NAMES.get(kind)
        try:
            w_out, whole_rows, errors = _compared(model, layers, name)
        except LayoutError as error:
            return MeasuredType(kind, REFUSED, why=str(error))
    wrong = {what: error for what, error in errors.items() if not error <= TOLERANCE}
    assert not wrong, f"{kind} is neither exact nor refused: {wrong}"
    return MeasuredType(kind, EXACT, "whole rows" if whole_rows else "prefix cache", w_out, name is not None)


def _check_model_itself(model) -> None:
    with torch.no_grad():
        logits = model(input_ids=torch.arange(5, 12)[None]).logits
    if not logits.isfinite().all():
        raise ValueError("its logits are not finite in float64")


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.160}"


def _compared(model, layers, name) -> tuple[str, bool, dict[str, float]]:
    """Edit the model. Returns the name of W_out, whether rows are run whole, and relative errors."""
    hparams = NSEHyperParams(
        layers=layers, alpha=1e-9, p=0.8, mom2_update_weight=2.0, v_lr=0.1, v_num_grad_steps=3, max_iterations=1,
        device="cpu", rewrite_module_tmp=name,
    )  # fmt: skip
    tokenizer, layout = tiny_tokenizer(), Layout.of(model, name)
    session = EditSession(model, tokenizer, hparams, _moments(layout, layers), list(CONTEXTS))
    values = session.values(FACTS[:1])
    layout = dataclasses.replace(layout, replay=session.state.replay)  # it need not be checked again
    rows = [encode_fact(tokenizer, fact, CONTEXTS, layout.max_positions) for fact in FACTS]
    oracles.layers_of.cache_clear()  # it would keep the models alive
    errors = {"z": oracles.relative(values[0], oracles.value(model, tokenizer, FACTS[0], CONTEXTS, hparams))}
    errors |= _replayed(model, layout, layers[-1], [row for fact in rows for row in _rows(fact)])
    errors |= _keys(model, layout, layers, rows)
    errors["moments"] = _measured_moments(model, layout, layers, [row.ids for row in rows[0].rewrites])
    errors["generation"] = _wrong_tokens(model, [row.ids for row in rows[0].rewrites])
    errors["residual"] = _round(model, session, values, layers[-1])
    oracles.layers_of.cache_clear()
    w_out = layout.output_matrix(layers[0]).name.removesuffix(".weight").replace(f".{layers[0]}.", ".{}.", 1)
    return w_out, layout.replay.whole_rows, errors


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
        with torch.no_grad(), hooked(*handles):
            h = [oracles.run(model, torch.tensor([row.ids]), layers[-1])[1][row.lookup] for row in fact.rewrites]
        for layer in layers:
            inputs = zip(seen[layer], fact.rewrites, strict=True)
            bare, after = (k.reshape(-1, k.shape[-1])[row.lookup] for k, row in inputs)
            errors["keys"] = max(errors["keys"], oracles.relative(keys[layer][number], (bare + after) / 2))
        errors["outputs"] = max(errors["outputs"], oracles.relative(outputs[number], h[0]))
    return errors


def _measured_moments(model, layout, layers, texts) -> float:
    """Sums of k k^T over texts of different lengths run together, against the model's own passes over one each."""
    found = measure_moments(layout, layers, [texts]).sums
    matrices, expected = layout.output_matrices(layers), dict.fromkeys(layers, 0)

    def add(layer):
        def hook(_, args):
            k = args[0].reshape(-1, args[0].shape[-1])
            expected[layer] += k.T @ k

        return hook

    handles = [matrix.module.register_forward_pre_hook(add(layer)) for layer, matrix in matrices.items()]
    with torch.no_grad(), hooked(*handles):
        for text in texts:
            oracles.run(model, torch.tensor([text]), layers[-1])
    return max(oracles.relative(found[layer], expected[layer]) for layer in layers)


def _wrong_tokens(model, texts) -> int:
    """Count the tokens that are not the most likely ones of the model's own pass over the text before them."""
    wrong = 0
    for text, written in zip(texts, write(model, texts, torch.zeros(len(texts), 4), never=(), top_k=1), strict=True):
        for length in range(len(text), len(written)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([written[:length]]), use_cache=False).logits
            wrong += written[length] != int(logits[0, -1].argmax())
    return wrong


def _round(model, session, values, layer) -> float:
    """How far the residual that a round reports is from that of the edited model, relative to the first residual."""
    frame = session.edit_with_values(FACTS[:1], values).frame
    tokenizer, fact = session.tokenizer, FACTS[0]
    at = oracles.subject_end(tokenizer, fact.text, fact.prompt.index("{}") + len(fact.subject))
    with torch.no_grad():
        h = oracles.run(model, oracles.ids_of(tokenizer, fact.text), layer)[1][at]
    return abs(float((values[0] - h).norm()) - frame["residual"][0]) / frame["residual_before"][0]
