"""Compare the rules that propose hyperparameters (`nse_plugin/hparams/proposed.py`) with published and tuned values.

    python -m benchmarks.presets            print the table of docs/presets.md
    python -m benchmarks.presets --write    write hparams/NSE/<name>.yaml of every model in `PROPOSED_FOR`

The rules for layers and lambda need only a model's shape. Those for alpha and v_lr need its hidden states: SmolLM2-135M
is loaded; of the published models the table gives the norm that the published alpha would be a tenth of, and the v_lr
that follows from that norm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.hparams.files import preset_text
from nse_plugin.hparams.proposed import ALPHA, hidden_norm, proposed_alpha, proposed_by_shape, proposed_rate
from nse_plugin.hparams.tuned import PROPOSED_FOR, TUNED_FOR

FOLDER = Path(__file__).resolve().parents[1] / "hparams" / "NSE"
NEURONS = {"gpt2-xl": 6400, "gpt-j-6B": 16384, "llama3-8b": 14336, "smollm2-135m": 1536}
FOUND = [
    "NSE for {}: proposed, untested here. layers, lambda and mom2_n_samples follow from the shape in the published",
    "configuration ({} layers, {} neurons in an MLP), which was not checked here.",
]
BY_NORM = "null: proposed from the loaded model's hidden states when it is first edited; the log says which"
WHY = {
    "layers": "from an eighth of the depth",
    "alpha": BY_NORM,
    "mom2_update_weight": "as many keys as the MLP has neurons",
    "v_lr": BY_NORM,
    "mom2_n_samples": "at least 10 tokens for each neuron",
}


def preset(name: str) -> str:
    """Return the YAML text of a proposed preset."""
    found = {**proposed_by_shape(*PROPOSED_FOR[name]), "alg_name": "NSE", "model_name": name, "device": 0}
    values = {"layers": found.pop("layers"), "alpha": None, "v_lr": None, **found}
    return preset_text(values, [FOUND[0].format(name), FOUND[1].format(*PROPOSED_FOR[name])], WHY)


def rows() -> Iterator[str]:
    """Yield the lines of the table: for each tuned model, its values and the proposed ones."""
    from nse_plugin.models.embedded import embedded_model

    yield "| model | layers | proposed | lambda | proposed | alpha | proposed | v_lr | proposed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for known in TUNED_FOR:
        name = known.aliases[0]
        own = NSEHyperParams.for_model(name, preset="paper")
        assert known.shape is not None
        _, layers, hidden_size, _ = known.shape
        found = proposed_by_shape(layers, NEURONS[name])
        if name == "smollm2-135m":
            norm = hidden_norm(embedded_model()[0], own.layers[-1])
            alpha = f"{proposed_alpha(norm):g}"
        else:
            norm = own.known("alpha") / ALPHA
            alpha = f"needs the model (norm {norm:g} would give it)"
        rate = proposed_rate(norm, hidden_size, own.clamp_norm_factor)
        spans = (f"{layers[0]}-{layers[-1]}" for layers in (own.layers, found["layers"]))
        numbers = (own.mom2_update_weight, found["mom2_update_weight"])
        cells = [
            name,
            *spans,
            *(f"{one:,.0f}" for one in numbers),
            f"{own.alpha:g}",
            alpha,
            f"{own.v_lr:g}",
            f"{rate:g}",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare proposed hyperparameters with tuned ones.")
    parser.add_argument("--write", action="store_true", help="write the proposed presets instead")
    if parser.parse_args().write:
        for name in PROPOSED_FOR:
            (FOLDER / f"{name}.yaml").write_text(preset(name), encoding="utf-8")
        return
    print("\n".join(rows()))


if __name__ == "__main__":
    main()
