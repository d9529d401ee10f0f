"""The values for known models are those of their YAML files, and are found by name and by shape."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from preset_files import PUBLISHED, ROOT, figures_of

from nse_plugin.hparams import TUNED_FOR, HyperParamsError, NSEHyperParams
from nse_plugin.hparams.proposed import proposed_by_shape
from nse_plugin.hparams.tuned import PROPOSED_FOR

NULL_SPACE = ("gpt2-xl", "gpt-j-6B", "llama3-8b")
BUNDLED = sorted((ROOT / "hparams" / "NSE").glob("*.yaml"))


def test_every_tuned_and_every_proposed_model_has_its_yaml():
    tuned = {cls.aliases[0] for cls in TUNED_FOR}
    others = {"llama-3.1-8b", "smollm2-135m-paper", *(f"{name}-null-space" for name in NULL_SPACE)}
    assert {path.stem for path in BUNDLED} == tuned | PROPOSED_FOR.keys() | others


@pytest.mark.parametrize("name", NULL_SPACE)
def test_the_new_options_for_the_paper_s_models_are_untested_and_change_nothing_else(name):
    path = ROOT / "hparams" / "NSE" / f"{name}-null-space.yaml"
    assert "untested here" in path.read_text().splitlines()[0]
    new, published = (NSEHyperParams.from_hparams(one).to_dict() for one in (f"{name}-null-space", name))
    assert {field: value for field, value in new.items() if value != published[field]} == {
        "subspace": "null_space", "ridge": 10.0, "max_iterations": 1, "upper_bound": None, "mom2_update_weight": 0.0,
    } | ({} if published["p"] == 1 else {"p": 1.0})  # fmt: skip
    assert NSEHyperParams.for_model(name).subspace == "neurons"


@pytest.mark.parametrize("name", PROPOSED_FOR)
def test_a_proposed_preset_follows_the_rules_and_says_so(name):
    path = ROOT / "hparams" / "NSE" / f"{name}.yaml"
    assert path.read_text().startswith(f"# NSE for {name}: proposed, untested here.")
    hparams = NSEHyperParams.from_hparams(name)
    rules = proposed_by_shape(*PROPOSED_FOR[name])
    assert {field: getattr(hparams, field) for field in rules} == rules
    assert hparams.alpha is hparams.v_lr is None
    assert hparams.layers[-1] <= PROPOSED_FOR[name].layers // 3


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("google/gemma-3-1b-it", "gemma-3-1b"), ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"), ("microsoft/phi-4", "phi-4"),
        ("microsoft/Phi-4-mini-instruct", None), ("google/gemma-3-1b-vision", None),
    ],
)  # fmt: skip
def test_proposed_presets_are_known_by_name(name, preset):
    if preset is None:
        with pytest.raises(HyperParamsError, match="give the loaded model"):
            NSEHyperParams.for_model(name)
    else:
        expected = {**NSEHyperParams.from_hparams(preset).to_dict(), "model_name": name}
        assert NSEHyperParams.for_model(name).to_dict() == expected


def test_smollm2_in_the_paper_s_setting():
    paper = NSEHyperParams.from_hparams("smollm2-135m-paper")
    assert (paper.p, paper.mom2_update_weight, paper.max_iterations, paper.solver) == (0.8, 600.0, 3, "exact")
    assert (paper.subspace, paper.ridge, paper.v_num_grad_steps) == ("neurons", 0.0, 11)
    assert NSEHyperParams.for_model("smollm2-135m", preset="paper").to_dict() == paper.to_dict()
    assert NSEHyperParams.for_model("smollm2-135m").to_dict() != paper.to_dict()


def test_p_belongs_to_the_paper_s_setting():
    default, paper = NSEHyperParams.for_model("smollm2-135m"), NSEHyperParams.for_model("smollm2-135m", preset="paper")
    assert default.subspace == "null_space"
    assert NSEHyperParams.for_model("smollm2-135m", p=0.5) == paper.with_overrides(p=0.5)
    with pytest.raises(HyperParamsError, match=r"^p = 0.5 cannot be used: it selects neurons.*null_space.*NSE-paper"):
        default.with_overrides(neuron_threshold=0.5)
    assert default.with_overrides(alpha=1.0).subspace == "null_space"


@pytest.mark.parametrize("cls", TUNED_FOR)
def test_the_yaml_and_the_dataclass_say_the_same(cls):
    assert NSEHyperParams.from_hparams(cls.aliases[0]).to_dict() == cls().to_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    hparams = NSEHyperParams.from_hparams(name)
    assert figures_of(hparams) == PUBLISHED[name]
    assert (hparams.clamp_norm_factor, hparams.v_weight_decay, hparams.kl_factor) == (0.75, 0.5, 0.0625)
    assert (hparams.mom2_dataset, hparams.mom2_n_samples) == ("wikipedia", 100000)
    assert (hparams.preset, hparams.rewind, hparams.accumulate) == ("paper", True, True)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("openai-community/gpt2-xl", "gpt2-xl"),
        ("./hugging_cache/gpt-j-6B", "gpt-j-6B"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6B"),
        ("EleutherAI_gpt-j-6B", "gpt-j-6B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b"),
        ("meta-llama/Llama-3.1-8B", "llama3-8b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ],
)
def test_models_are_known_by_name(name, preset):
    hparams = NSEHyperParams.for_model(name)
    expected = {**NSEHyperParams.from_hparams(preset).to_dict(), "model_name": name}
    assert hparams.to_dict() == expected


@pytest.mark.parametrize("cls", TUNED_FOR)
def test_models_are_known_by_shape(cls):
    model_type, layers, hidden, vocabulary = cls.shape
    config = SimpleNamespace(model_type=model_type, num_hidden_layers=layers, hidden_size=hidden, vocab_size=vocabulary)
    assert type(NSEHyperParams.for_model(SimpleNamespace(config=config))) is cls
