"""Other implementations, if installed, compute the same as this package."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_facts

from benchmarks.peers import NotHere
from benchmarks.peers.authors import AuthorsNSE
from benchmarks.peers.easyedit import AS_MEMIT, EasyEditMemit
from benchmarks.peers.names import module_names
from benchmarks.setting import Setting, relative_difference
from nse_plugin.method.keys import FactSpan


@pytest.fixture(autouse=True)
def double_by_default(setting: Setting):
    """Both peers make delta in torch's default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def facts() -> list:
    """Not the one whose target is as long as a sentence: both peers tokenise target and prompt apart."""
    return [fact for fact in tiny_facts() if "," not in fact.target_new]


@pytest.fixture
def memit(setting: Setting, tmp_path, monkeypatch) -> EasyEditMemit:
    monkeypatch.chdir(tmp_path)
    try:
        return EasyEditMemit(setting)
    except NotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture
def authors(setting: Setting) -> AuthorsNSE:
    try:
        return AuthorsNSE(setting)
    except NotHere as reason:
        pytest.skip(str(reason))


def test_easyedits_memit_changes_the_weights_alike(setting: Setting, memit: EasyEditMemit, facts) -> None:
    with setting.restored() as originals:
        setting.session(**AS_MEMIT).edit(facts)
        found = setting.change_since(originals)
    with setting.restored() as originals:
        memit.edit(facts)
        expected = setting.change_since(originals)
    assert expected.norm() > 1e-3
    assert relative_difference(found, expected) <= 1e-8


def test_the_authors_values(setting: Setting, authors: AuthorsNSE, facts) -> None:
    found = setting.session().values(facts)
    assert relative_difference(found, torch.stack([authors.value(fact) for fact in facts])) <= 1e-8


def test_the_authors_keys_and_outputs(setting: Setting, authors: AuthorsNSE, facts) -> None:
    keys, outputs = FactSpan(setting.layout, [1, 2], setting.encoded(facts), 4096).run()
    for layer in (1, 2):
        assert relative_difference(keys[layer], authors.keys(facts, layer)) <= 1e-8
    assert relative_difference(outputs, authors.outputs(facts)) <= 1e-8


def test_the_authors_weight_changes(setting: Setting, authors: AuthorsNSE, facts) -> None:
    values = setting.session().values(facts)
    with setting.restored() as originals:
        setting.session().edit_with_values(facts, values)
        found = setting.change_since(originals)
    with setting.restored() as originals:
        authors.edit(facts, values)
        expected = setting.change_since(originals)
    assert relative_difference(found, expected) <= 1e-8


def test_a_clone_that_is_not_there_is_said_in_a_sentence(setting: Setting, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("AUTHORS_NSE", raising=False)
    with pytest.raises(NotHere, match="set AUTHORS_NSE to a clone"):
        AuthorsNSE(setting)
    monkeypatch.setenv("AUTHORS_NSE", str(tmp_path))
    with pytest.raises(NotHere, match=r"no nse/nse_main\.py in it"):
        AuthorsNSE(setting)


def test_modules_are_named(setting: Setting) -> None:
    names = module_names(setting.layout, 1)
    modules = dict(setting.model.named_modules())
    for field in ("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp"):
        assert names[field].format(2) in modules
    assert names["ln_f_module"] in ("model.norm", "transformer.ln_f")
    assert modules[names["lm_head_module"]].weight is setting.model.get_output_embeddings().weight
