"""Fixtures for tests that run EasyEdit.

One process can import only one EasyEdit: the clone named by EASYEDIT_HOME, otherwise the installed wheel.

`pytest tests/easyedit tests/baselines` tests the wheel; with `EASYEDIT_HOME=path/to/clone` it tests the main branch.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nse_plugin.easyedit import make_editor, register
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.hparams import NSEHyperParams

CAPITALS = {
    "France": "Lyon",
    "the United States": "Boston",
    "Peru": "Arica",
    "Italy": "Milan",
    "Japan": "Osaka",
    "New Zealand": "Dunedin",
}
SENTENCE = "The capital of the United States is Washington, and in Peru people speak Spanish. "


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EasyEdit writes ./logs wherever it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def on_main() -> bool:
    """Whether the EasyEdit at hand is a clone of main rather than the wheel."""
    return bool(os.environ.get("EASYEDIT_HOME"))


@pytest.fixture(scope="session")
def easyeditor(on_main: bool) -> Any:
    if not on_main and importlib.util.find_spec("easyeditor") is None:
        pytest.skip("needs EasyEdit: the wheel easyeditor==0.0.1.dev0, or a clone named by EASYEDIT_HOME")
    register()
    return importlib.import_module("easyeditor")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE like GPT-2's, without a pad token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([SENTENCE, SENTENCE, *CAPITALS], trainer)
    end = "<|endoftext|>"
    special = {"bos_token": end, "eos_token": end, "unk_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **special)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def tiny_llama_source(tiny_tokenizer: Any) -> Any:
    return _random_model(
        "llama", tiny_tokenizer, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_gpt2_source(tiny_tokenizer: Any) -> Any:
    return _random_model("gpt2", tiny_tokenizer, n_embd=32, n_inner=48, n_layer=4, n_head=4, n_positions=256)


def _random_model(model_type: str, tokenizer: Any, **sizes: int) -> Any:
    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(model_type, **ids, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]


@pytest.fixture
def new_llama(tiny_llama_source: Any) -> Callable[[], Any]:
    """Makes the same unedited model again and again."""
    return lambda: copy.deepcopy(tiny_llama_source)


@pytest.fixture
def tiny_llama(new_llama: Callable[[], Any]) -> Any:
    return new_llama()


@pytest.fixture
def editor_of(easyeditor: Any, tiny_tokenizer: Any, hparams: NSEHyperParams) -> Callable[[Any], Any]:
    """A new editor for a model, with `hparams` as they are then."""
    return lambda model: make_editor(model, tiny_tokenizer, hparams)


@pytest.fixture(scope="session")
def stats_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The moments are measured once for all tests."""
    return tmp_path_factory.mktemp("stats")


@pytest.fixture
def hparams(stats_dir: Path) -> NSEHyperParams:
    return NSEHyperParams(
        layers=[1, 2],
        alpha=0.01,
        max_iterations=2,
        p=0.9,
        mom2_update_weight=1.0,
        v_lr=0.1,
        v_num_grad_steps=3,
        mom2_n_samples=8,
        stats_dir=str(stats_dir),
        batch_size=2,
        device="cpu",
    )


@pytest.fixture
def capitals() -> Callable[..., dict[str, Any]]:
    """The arguments of `batch_edit` for the facts about these countries."""

    def arguments(*countries: str) -> dict[str, Any]:
        chosen = countries or tuple(CAPITALS)
        return {
            "prompts": [f"The capital of {country} is" for country in chosen],
            "subject": list(chosen),
            "target_new": [CAPITALS[country] for country in chosen],
        }

    return arguments


@pytest.fixture
def protected() -> Callable[[Any], int]:
    """How many facts' keys later rounds must leave alone."""

    def count(model: Any) -> int:
        state = nse.state_of(model)
        return 0 if state is None else state.knowledge.count

    return count


@pytest.fixture
def edited() -> Callable[[Any], dict[str, torch.Tensor]]:
    """Copies of the weights that `layers: [1, 2]` edits."""

    def weights(model: Any) -> dict[str, torch.Tensor]:
        names = ("mlp.down_proj.weight", "mlp.c_proj.weight")
        found = {n: w.detach().clone() for n, w in model.named_parameters() if n.endswith(names)}
        return {n: w for n, w in found.items() if ".1." in n or ".2." in n}

    return weights


@pytest.fixture
def new_model(family: str, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Makes a tiny model of the test's `family`."""
    return lambda: copy.deepcopy(request.getfixturevalue(f"tiny_{family}_source"))
