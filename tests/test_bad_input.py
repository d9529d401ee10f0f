"""Bad input: one clear sentence that names the field, its value and the remedy, and an unchanged model."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from tiny import TEMPLATES, D, F, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer
from torch import nn

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.easyedit.algorithm import NSE
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import moments_file

FRANCE = {"prompt": "The capital of France is", "subject": "France", "target_new": "Lyon"}


class Bench:
    """A tiny model and all the ways an edit may be asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.model = tiny_model("llama")
        self.tokenizer = tiny_tokenizer()
        self.moments = tiny_moments(self.model, [1, 2])
        self.hparams = NSEHyperParams(
            layers=[1, 2], alpha=0.5, v_num_grad_steps=3, mom2_n_samples=5, stats_dir=str(folder)
        )

    def session(self, **changes):
        """An EditSession with some of its arguments changed."""
        given = {"hparams": self.hparams, "moments": self.moments, "templates": TEMPLATES, **changes}
        return EditSession(self.model, self.tokenizer, **given)

    def edit(self, *facts):
        """Edit explicitly."""
        return self.session().edit([Fact(*fact) for fact in facts])

    def apply(self, *requests):
        """Edit as EasyEdit does."""
        algorithm = NSE()
        return algorithm.apply_to_model(self.model, self.tokenizer, list(requests), self.hparams)

    def with_hparams(self, **changes):
        """Edit with hyperparameters built anew."""
        return self.session(hparams=dataclasses.replace(self.hparams, **changes)).edit(tiny_facts())

    def with_assigned(self, **changes):
        """Edit with hyperparameters that somebody assigned to, as EasyEdit does."""
        session = self.session()
        for name, value in changes.items():
            setattr(self.hparams, name, value)
        return session.edit(tiny_facts())

    def from_yaml(self, text):
        path = self.folder / "mine.yaml"
        path.write_text(text)
        return self.session(hparams=NSEHyperParams.from_hparams(path))

    def with_moments(self, **changes):
        return self.session(moments={**self.moments, **changes.pop("others", {})}, **changes)

    def with_weight(self, weight):
        self.model.model.layers[2].mlp.down_proj.weight = nn.Parameter(weight, requires_grad=False)
        return self.session()

    def with_meta_weights(self):
        self.model.lm_head.to("meta")
        return self.session()

    def with_npz(self, content):
        layout = Layout.of(self.model)
        path = moments_file(layout, layout.output_matrix(2), self.hparams)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return self.session(moments=None).edit(tiny_facts())


LONG = "the old town of Italy and " * 20

# name: (what is done, words of the message: field, value, remedy)
CASES = {
    "subject missing from the prompt": (
        lambda b: b.apply({**FRANCE, "prompt": "The capital of Italy is"}),
        ["fact 0", "prompt", "'The capital of Italy is'", "does not contain", "'France'", "write '{}'"],
    ),
    "subject in the prompt twice": (
        lambda b: b.apply({**FRANCE, "prompt": "France, or rather France, is"}),
        ["prompt", "contains 2 times", "'France'", "write '{}'"],
    ),
    "subject within a longer word": (
        lambda b: b.apply({**FRANCE, "prompt": "The capital of Francesca is"}),
        ["fact 0", "prompt", "'France'", "within a longer word", "whole word", "write '{}'"],
    ),
    "one fact twice": (
        lambda b: b.apply(FRANCE, {**FRANCE, "prompt": "{} is in"}, FRANCE),
        ["'The capital of France is'", "'Lyon'", "fact 0", "fact 2", "keep one"],
    ),
    "one fact twice, explicitly": (
        lambda b: b.edit(("{} is", "France", "Lyon"), ("{} is ", "France", "Lyon")),
        ["'France is'", "'Lyon'", "facts[0]", "facts[1]", "keep one"],
    ),
    "no {}": (
        lambda b: b.edit(("The capital of France is", "France", "Lyon")),
        ["prompt", "'The capital of France is'", "has no '{}'", "exactly once"],
    ),
    "two {}": (lambda b: b.edit(("{} and {}", "France", "Lyon")), ["prompt", "has '{}' 2 times", "exactly once"]),
    "empty target": (lambda b: b.edit(("{} is", "France", "")), ["target_new", "''", "non-empty"]),
    "blank target": (lambda b: b.apply({**FRANCE, "target_new": "  "}), ["fact 0", "target_new", "'  '", "non-empty"]),
    "no target": (lambda b: b.apply({**FRANCE, "target_new": None}), ["fact 0", "target_new", "missing"]),
    "empty prompt": (lambda b: b.edit(("", "France", "Lyon")), ["prompt", "''", "non-empty"]),
    "empty subject": (lambda b: b.edit(("{} is", " ", "Lyon")), ["subject", "' '", "non-empty"]),
    "a request that is none": (lambda b: b.apply("France"), ["request 0", "str", "prompt, subject and target_new"]),
    "zero facts": (lambda b: b.edit(), ["facts", "empty", "at least one"]),
    "zero values": (lambda b: b.session().values([]), ["facts", "empty", "at least one"]),
    "zero requests": (lambda b: b.apply(), ["facts", "empty", "at least one"]),
    "two targets for one prompt": (
        lambda b: b.apply(FRANCE, {**FRANCE, "target_new": "Rome"}),
        ["'The capital of France is'", "'Lyon'", "'Rome'", "keep one"],
    ),
    "layers out of range": (lambda b: b.with_hparams(layers=[1, 9]), ["layers", "9", "out of range", "0 to 3"]),
    "layers out of range, assigned": (lambda b: b.with_assigned(layers=[1, 9]), ["layers", "9"]),
    "no layers": (lambda b: b.with_hparams(layers=[]), ["layers", "[]", "at least one"]),
    "p is 0": (lambda b: b.with_hparams(p=0), ["p = 0", "(0, 1]"]),
    "p above 1": (lambda b: b.with_hparams(p=1.2), ["p = 1.2", "(0, 1]"]),
    "p above 1, assigned": (lambda b: b.with_assigned(p=1.2), ["p = 1.2", "(0, 1]"]),
    "alpha is 0": (lambda b: b.with_hparams(alpha=0), ["alpha = 0", "above 0"]),
    "alpha below 0, assigned": (lambda b: b.with_assigned(alpha=-1), ["alpha = -1", "above 0"]),
    "lambda is 0": (lambda b: b.with_hparams(mom2_update_weight=0), ["mom2_update_weight = 0", "above 0"]),
    "lambda below 0, assigned": (
        lambda b: b.with_assigned(mom2_update_weight=-2),
        ["mom2_update_weight = -2", "above 0"],
    ),
    "misspelt key": (
        lambda b: b.from_yaml("layers: [1, 2]\nalpha: 1\nmax_iteration: 3"),
        ["mine.yaml", "'max_iteration'", "did you mean 'max_iterations'"],
    ),
    "hparams of another kind": (
        lambda b: NSE().apply_to_model(b.model, b.tokenizer, [FRANCE], {"layers": [1]}),
        ["hparams", "dict", "NSEHyperParams"],
    ),
    "moments missing": (
        lambda b: b.session(moments={1: b.moments[1]}),
        ["moments", "layer 2", "nse moments"],
    ),
    "moments of wrong shape": (
        lambda b: b.with_moments(others={2: torch.eye(7)}),
        ["moments[2]", "(7, 7)", f"({F}, {F})", "measure"],
    ),
    "moments not finite": (
        lambda b: b.with_moments(others={1: b.moments[1] * torch.nan}),
        ["moments[1]", "NaN or infinite", "measure"],
    ),
    "quantised to 8 bits": (
        lambda b: b.with_weight(torch.zeros(D, F, dtype=torch.int8)),
        ["layers.2.mlp.down_proj.weight", "torch.int8", "quantised", "bfloat16"],
    ),
    "quantised to 4 bits": (
        lambda b: b.with_weight(torch.zeros(D * F // 2, 1, dtype=torch.uint8)),
        ["layers.2.mlp.down_proj.weight", "torch.uint8", "quantised", "bfloat16"],
    ),
    "meta device": (lambda b: b.with_meta_weights(), ["meta device", "load it whole"]),
    "prompt too long": (
        lambda b: b.edit(("The capital of {} is", "France", "Lyon"), (LONG + "{} is", "France", "Lyon")),
        ["the old town", "tokens", "64 positions", "shorten"],
    ),
    "target too long": (lambda b: b.edit(("{} is", "France", LONG)), ["tokens", "64 positions", "target"]),
    "corrupt npz": (lambda b: b.with_npz(b"PK\x03\x04"), ["down_proj_float32_mom2_5.npz", "not a readable", "delete"]),
    "empty npz": (lambda b: b.with_npz(b""), ["down_proj_float32_mom2_5.npz", "not a readable", "delete"]),
    "corpus that is not there": (
        lambda b: EditSession(
            b.model, b.tokenizer, dataclasses.replace(b.hparams, mom2_dataset="no/such.txt"), templates=TEMPLATES
        ).edit(tiny_facts()),
        ["mom2_dataset", "'no/such.txt'", "no such file", "'self'"],
    ),
    "templates without a slot": (
        lambda b: b.session(templates=["{}", "Well."]),
        ["template", "'Well.'", "exactly once"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_sentence_and_an_untouched_model(name, tmp_path, weights_of, same_weights):
    bench = Bench(tmp_path)
    do, words = CASES[name]
    before = weights_of(bench.model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  every error of the plugin's input is one
        do(bench)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert type(caught.value).__module__.startswith("nse_plugin") or "templates" in name
    assert "\n" not in message
    assert message[-1] in ".?"
    assert len(re.sub(r"/\S+|'[^']*'", "", message)) < 250  # without the user's own paths and texts
    if "quantised" not in name and "meta" not in name:  # there the bench itself changed the model
        assert same_weights(weights_of(bench.model), before)


def test_a_round_with_one_bad_fact_writes_none(tmp_path, weights_of, same_weights):
    bench = Bench(tmp_path)
    before = weights_of(bench.model)
    good = {"prompt": "The capital of Germany is", "subject": "Germany", "target_new": "Rome"}
    with pytest.raises(ValueError, match="fact 1: target_new"):
        bench.apply(good, {**FRANCE, "target_new": ""})
    assert same_weights(weights_of(bench.model), before)
