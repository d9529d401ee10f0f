"""AlphaEdit, WISE and UltraEdit of EasyEdit's main: what they write, and what they remember."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from nse_plugin import Fact
from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner, MethodError
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.files import preset_path
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments

FACTS = [
    Fact("The capital of {} is", "France", "Lyon", case_id=7),
    Fact("In {} people speak", "Peru", "Spanish"),
    Fact("The capital of {} is", "the United States", "Boston"),
]
PRESETS = {"AlphaEdit": "AlphaEdit", "WISE": "WISE", "ULTRAEDIT": "UltraEdit"}
EDITED = {
    ("AlphaEdit", "llama"): [f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2)],
    ("AlphaEdit", "gpt2"): [f"transformer.h.{layer}.mlp.c_proj" for layer in (1, 2)],
    ("WISE", "llama"): ["model.layers[2].mlp.down_proj"],
    ("WISE", "gpt2"): ["transformer.h[2].mlp.c_fc"],
    ("ULTRAEDIT", "llama"): [f"model.layers.{layer}.mlp.up_proj" for layer in (1, 2)],
    ("ULTRAEDIT", "gpt2"): [f"transformer.h.{layer}.mlp.c_proj" for layer in (1, 2)],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "AlphaEdit": {"layers": [1, 2], "v_num_grad_steps": 3, "v_loss_layer": 3, "v_lr": 0.5, "mom2_n_samples": 8,
                  "mom2_dataset": "self", "nullspace_threshold": "half", "L2": 0.01},
    "WISE": {"n_iter": 3, "act_margin": [0.01, 0.1, 0.05]},
    "ULTRAEDIT": {"lr": 1e-3, "batch_size_once": 2},
}  # fmt: skip
SAVED = ["AlphaEdit", "ULTRAEDIT"]

pytestmark = pytest.mark.usefixtures("easyeditor")


@pytest.fixture
def main_only(on_main: bool) -> None:
    if not on_main:
        pytest.skip("the wheel has none of these: set EASYEDIT_HOME to a clone of EasyEdit's main")


@pytest.fixture(params=["llama", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method_on(family: str, tiny_tokenizer: Any, stats_dir: Path, main_only: None) -> Callable[..., EasyEditRunner]:
    """The packaged preset of the family's published model, brought down to the tiny one's size."""
    preset = {"llama": "llama3-8b", "gpt2": "gpt2-xl"}[family]

    def make(model: Any, alg_name: str, tokenizer: Any = tiny_tokenizer, **changes: Any) -> EasyEditRunner:
        settings = {**SETTINGS[alg_name], **changes}
        if alg_name == "AlphaEdit":
            settings["stats_dir"] = str(stats_dir / f"{family}-alphaedit")
            if settings["nullspace_threshold"] == "half":
                settings["nullspace_threshold"] = float(_eigenvalues(model, settings, tokenizer).median())
        else:
            settings["inner_params"] = [f"{name}.weight" for name in EDITED[alg_name, family]]
        hparams = load_hparams(alg_name, preset_path(PRESETS[alg_name], preset), settings, model)
        return EasyEditRunner(model, tokenizer, alg_name, hparams)

    return make


def _eigenvalues(model: Any, settings: dict[str, Any], tokenizer: Any) -> torch.Tensor:
    return torch.cat([torch.linalg.eigvalsh(moment) for moment in _moments(model, settings, tokenizer).values()])


def _moments(model: Any, settings: dict[str, Any], tokenizer: Any) -> dict[int, torch.Tensor]:
    names = ("layers", "mom2_n_samples", "mom2_dataset", "stats_dir")
    hparams = NSEHyperParams(alpha=1.0, **{name: settings[name] for name in names})
    return second_moments(Layout.of(model), tokenizer, hparams)


def _logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(**tokenizer(text, return_tensors="pt")).logits
    return logits[0]


@pytest.mark.parametrize("alg_name", SAVED)
def test_a_round_changes_the_method_s_own_matrices_only(
    alg_name: str, family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
) -> None:
    model, before = new_model(), dict(new_model().named_parameters())
    frame = method_on(model, alg_name).edit(FACTS)
    assert frame["case_id"].tolist() == [7, 1, 2]
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {f"{name}.weight" for name in EDITED[alg_name, family]}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert {path.name for path in Path.cwd().iterdir()} <= {
        "nse-home"
    }  # EasyEdit's AlphaEdit writes its projections there


@pytest.mark.parametrize("alg_name", SAVED)
def test_going_on_from_a_state_is_never_having_stopped(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
) -> None:
    whole, resumed, forgetful = new_model(), new_model(), new_model()
    method = method_on(whole, alg_name)
    method.edit(FACTS[:2])
    state = method.state()
    assert state is not None
    saved = {name: tensor.clone() for name, tensor in state.items()}
    method.edit(FACTS[2:])  # a shorter round, the last

    weights = {name: tensor for name, tensor in saved.items() if name.startswith("weights.")}
    for model, kept in ((resumed, saved), (forgetful, weights)):
        method = method_on(model, alg_name)
        method.resume(kept)
        method.edit(FACTS[2:])
    expected, found, other = (dict(model.named_parameters()) for model in (whole, resumed, forgetful))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not all(torch.equal(other[name], expected[name]) for name in expected)


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_one_method_s_memories_are_not_another_s(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    alone, other, after_another = new_model(), new_model(), new_model()
    method_on(alone, alg_name).edit(FACTS[:2])
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    method_on(other, alg_name).edit(FACTS[:2])
    method_on(after_another, alg_name).edit(FACTS[:2])
    for fact in FACTS:
        assert torch.equal(_logits(after_another, tiny_tokenizer, fact.text), _logits(alone, tiny_tokenizer, fact.text))


def test_alphaedit_writes_into_the_null_space(
    family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model, before = new_model(), dict(new_model().named_parameters())
    method = method_on(model, "AlphaEdit")
    method.edit(FACTS[:2])
    moments = _moments(new_model(), vars(method.hparams), tiny_tokenizer)
    for layer, name in zip((1, 2), EDITED["AlphaEdit", family], strict=True):
        weight = model.get_parameter(f"{name}.weight")
        update = (weight - before[f"{name}.weight"]).detach().double()
        eigenvalues, vectors = torch.linalg.eigh(moments[layer].double())
        used = vectors[:, eigenvalues > 1.01 * method.hparams.nullspace_threshold]
        assert 0 < used.shape[1] < 48
        update = update if update.shape[1] == 48 else update.T
        assert (update @ used).norm() < 1e-4 * update.norm()


def test_alphaedit_without_a_null_space(new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]) -> None:
    with pytest.raises(MethodError, match=r"nullspace_threshold = 0.0 is below every eigenvalue of layer 1"):
        method_on(new_model(), "AlphaEdit", nullspace_threshold=0.0).edit(FACTS[:1])


def test_wise_sends_every_row_its_own_way(
    family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model, unedited = new_model(), new_model()
    method = method_on(model, "WISE")
    for fact in FACTS:
        method.edit([fact])
    assert method.state() is None
    adapter = model.get_submodule(EDITED["WISE", family][0].replace("[", ".").replace("]", ""))
    assert adapter.editing_total_cnt == 3
    texts = ["In Peru people", "The capital of France is the capital of Japan"]
    distances = []
    for text in texts:
        with torch.inference_mode():
            model(**tiny_tokenizer(text, return_tensors="pt"))
            seen: list[torch.Tensor] = []
            handle = adapter.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(**tiny_tokenizer(text, return_tensors="pt"))
            handle.remove()
            wise = importlib.import_module("easyeditor.models.wise.WISE")
            original, side = adapter.original_layer(seen[0]), adapter.new_weight_forward(seen[0])
            distances.append(float(wise.euc(original, side, adapter.config, infer=True)))
    adapter.config.act_ratio, adapter.editing_mean_act.min_a = 1.0, sum(distances) / 2  # one text on either side
    alone = [_logits(model, tiny_tokenizer, text) for text in texts]
    plain = [_logits(unedited, tiny_tokenizer, text) for text in texts]
    near, far = (0, 1) if distances[0] < distances[1] else (1, 0)
    assert torch.equal(alone[near], plain[near])
    assert not torch.allclose(alone[far], plain[far], atol=1e-4)

    rows = [tiny_tokenizer(text)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        right = model(input_ids=ids, attention_mask=mask).logits
        positions = (mask.flip(1).cumsum(1) - 1).clamp(min=0)
        turned = [row[::-1] + [0] * (longest - len(row)) for row in rows]
        left = model(input_ids=torch.tensor(turned).flip(1), attention_mask=mask.flip(1), position_ids=positions).logits
    for number, row in enumerate(rows):
        assert torch.allclose(right[number, : len(row)], alone[number], atol=1e-5)
        assert torch.allclose(left[number, longest - len(row) :], alone[number], atol=1e-5)


def test_wise_learns_the_target_and_nothing_before_it(
    new_model: Callable[[], Any],
    method_on: Callable[..., EasyEditRunner],
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("easyeditor.models.wise.wise_main")
    tokenize, learned = module.tokenize, []

    def record(*args: Any, **kwargs: Any) -> Any:
        tokens, *masks = tokenize(*args, **kwargs)
        learned.extend(tiny_tokenizer.decode(row[row != -100]) for row in tokens["labels"][:-1])
        return tokens, *masks

    monkeypatch.setattr(module, "tokenize", record)
    method_on(new_model(), "WISE").edit(FACTS[:1])
    assert len(learned) == 11
    assert set(learned) == {" Lyon"}


def test_ultraedit_normalises_over_all_rounds(
    new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model = new_model()
    method = method_on(model, "ULTRAEDIT", half=True)
    for round_ in (FACTS[:2], FACTS[2:]):
        method.edit(round_)
    tokens = sum(len(tiny_tokenizer(f"{fact.text} {fact.target_new}")["input_ids"]) for fact in FACTS)
    state = method.state()
    assert state is not None
    (counted,) = (int(tensor) for name, tensor in state.items() if name.startswith("ultraedit.") and name[-2:] == ".n")
    assert counted == 2 * tokens  # once for each matrix of the shape
    assert model.dtype == torch.float32


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_every_method_makes_its_fact_likelier(
    alg_name: str, family: str, method_on: Callable[..., EasyEditRunner]
) -> None:
    fact, tokenizer = Fact("Rome is in {}", "France", "Lyon"), tiny.tiny_tokenizer()
    model = tiny.tiny_model(family, torch.float32)  # its weights are large enough for an edit to matter
    changes: dict[str, Any] = {
        "AlphaEdit": {"v_num_grad_steps": 20, "v_weight_decay": 0.0, "clamp_norm_factor": 4.0, "L2": 1e-4},
        "WISE": {"n_iter": 40, "edit_lr": 1.0, "act_margin": [1e3, 0.0, -1e3]},  # the loss of the target alone
        "ULTRAEDIT": {"lr": 0.1},
    }[alg_name]
    before = _likelihood(model, tokenizer, fact)
    method_on(model, alg_name, tokenizer, **changes).edit([fact])
    assert _likelihood(model, tokenizer, fact) > before + 0.1


def _likelihood(model: Any, tokenizer: Any, fact: Fact) -> float:
    target = tokenizer(f" {fact.target_new}")["input_ids"]
    logits = _logits(model, tokenizer, f"{fact.text} {fact.target_new}")[-len(target) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).mean())


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_the_wheel_has_none_of_them(alg_name: str, tiny_llama: Any, tiny_tokenizer: Any, on_main: bool) -> None:
    if on_main:
        pytest.skip("main has them")
    said = "this EasyEdit has no such algorithm; EasyEdit's main has it: clone .* and set EASYEDIT_HOME"
    with pytest.raises(HyperParamsError, match=said):
        load_hparams(alg_name, preset_path(PRESETS[alg_name], "smollm2-135m"), {}, tiny_llama)
    with pytest.raises(MethodError, match=said):
        EasyEditRunner(tiny_llama, tiny_tokenizer, alg_name, None)


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_presets_are_readable(alg_name: str, tiny_llama: Any, main_only: None) -> None:
    for model in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
        hparams = load_hparams(alg_name, preset_path(PRESETS[alg_name], model), {}, tiny_llama)
        assert hparams.alg_name == alg_name
        if alg_name == "WISE":
            assert hparams.merge_freq % hparams.save_freq == 0
            assert hparams.alpha < hparams.gamma < hparams.beta
            assert isinstance(hparams.norm_constraint, float)


def test_wise_s_margins_are_three(tiny_llama: Any, main_only: None) -> None:
    with pytest.raises(HyperParamsError, match=r"act_margin = \[1.0\] cannot be used: give a list of alpha, beta"):
        load_hparams("WISE", preset_path("WISE", "smollm2-135m"), {"act_margin": [1.0]}, tiny_llama)
