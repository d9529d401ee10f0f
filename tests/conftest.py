"""Tiny random models of every architecture and a small byte-level BPE tokenizer; nothing is downloaded."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

# Set before torch is imported, and inherited by the processes that tests start. With one test worker per core, several
# threads per process would wait for each other, and everything would take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from forking import programs
from running_order import PLACES
from tiny import ARCHITECTURES, CHAT, TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.embedded import EmbeddedModelError, embedded_model
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


def pytest_collection_finish():
    """Exclude the millions of objects that exist after importing and collecting from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give every test its own cache, so that none reads or writes the user's."""
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "nse-home"))


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


class _Double:
    """The module `torch`, but with float64 under the name float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def all_in_double(monkeypatch):
    """Make models compute in float64 throughout.

    The norms of the Llama family and GPT-J's attention use float32 for every dtype of the model, which is too coarse
    for tolerances of 1e-8.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for family in ("gemma2", "gemma3", "gptj", "llama", "mistral", "qwen3"):
        modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        monkeypatch.setattr(modeling, "torch", _Double())


@pytest.fixture
def model(architecture):
    return tiny_model(architecture)


@pytest.fixture
def llama():
    return tiny_model("llama")


@pytest.fixture
def facts():
    return tiny_facts()


@pytest.fixture
def templates():
    return list(TEMPLATES)


@pytest.fixture
def hparams():
    return NSEHyperParams(
        layers=[1, 2],
        alpha=0.5,
        p=0.8,
        mom2_update_weight=2.0,
        v_lr=0.1,
        v_num_grad_steps=6,
        max_iterations=3,
        device="cpu",
    )


@pytest.fixture
def moments(model):
    return tiny_moments(model, [1, 2])


@pytest.fixture
def seen():
    """The layout of a tiny Llama, and a list of how many tokens each of its layers has processed."""
    layout = Layout.of(tiny_model("llama"))
    tokens = [0] * len(layout.layers)

    def count(number):
        def hook(_, args, __):
            tokens[number] += args[0].shape[0] * args[0].shape[1]

        return hook

    for number, layer in enumerate(layout.layers):
        # on the MLP, to count the tokens that the layer computes rather than its calls
        layer.mlp.down_proj.register_forward_hook(count(number))
    with frozen(layout.model):
        yield layout, tokens


@pytest.fixture
def weights_of():
    """A function that copies all parameters of a model."""
    return lambda model: {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def same_weights():
    """A function that tells whether two copies made by `weights_of` are equal to the bit."""
    return lambda a, b: a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- made once per session ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory) -> Path:
    """A cache folder with SmolLM2-135M, converted once for all test workers. Tests must not write to it."""
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(folder / "smollm2.lock"):
        try:
            embedded_model(folder / "smollm2")
        except EmbeddedModelError as error:
            pytest.skip(str(error))
    return folder / "smollm2"


def _import_commands() -> None:
    for name in ("cli", "session.session", "patch.rounds", "experiments.run.sweep", "experiments.run.worker"):
        importlib.import_module(f"nse_plugin.{name}")


def _import_easyedit() -> None:
    importlib.import_module("transformers").utils.logging.disable_progress_bar()  # as in the environment of workers
    _import_commands()
    importlib.import_module("nse_plugin.baselines.registry").all_algorithms()


@pytest.fixture(scope="session")
def forked_programs(tmp_path_factory):
    """A folder with an `nse` and a `python` that start without importing anything: see `forking`."""
    with programs(tmp_path_factory.mktemp("bin"), _import_commands) as folder:
        yield folder


@pytest.fixture(scope="session")
def forked_programs_with_easyedit(tmp_path_factory):
    """As `forked_programs`, with EasyEdit imported too."""
    with programs(tmp_path_factory.mktemp("bin"), _import_easyedit) as folder:
        yield folder


@pytest.fixture
def forked_workers(forked_programs_with_easyedit, monkeypatch):
    """Start the workers of a comparison as forks, which need not import anything."""
    monkeypatch.setattr(sys, "executable", str(forked_programs_with_easyedit / "python"))


# -- an experiment ------------------------------------------------------------------------------------------------

RECORDS = [
    ("The capital of {} is", "France", "Lyon", "Paris"), ("{} was born in", "Marie Curie", "Rome", "Warsaw"),
    ("{} stands in", "Mount Fuji", "Germany", "Japan"), ("{} is an old town of", "Rome", "Japan", "Italy"),
    ("{} is a town of", "Lyon", "Italy", "France"), ("The capital of {} is", "Germany", "Rome", "Berlin"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny_experiment(tmp_path_factory) -> list[str]:
    """Save a tiny model and six facts, and return the settings of `nse compare` that choose them."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    tiny_model("llama", torch.float32).save_pretrained(folder / "model")
    tiny_tokenizer(bos=True, chat="{{ bos_token }}" + CHAT).save_pretrained(folder / "model")
    records = [
        {
            "case_id": number, "prompt": prompt, "subject": subject, "target_new": new, "target_true": true,
            "rephrase_prompts": [f"We know that {prompt.format(subject)}"],
            "locality_prompts": [[prompt.format("Berlin"), true]],
        }
        for number, (prompt, subject, new, true) in enumerate(RECORDS)
    ]  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(records))
    return [f"model.source={folder / 'model'}", f"data.source={folder / 'facts.json'}", "facts=6", "round=2"]
