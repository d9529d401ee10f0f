"""Results depend on the content of files, not on their names."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.experiments.plan import BEFORE, Plan, PlanError, inputs, read_facts
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.record import Record
from nse_plugin.experiments.run import cell, worker

TWO = [
    {"prompt": "{} is a town of", "subject": name, "target_new": new, "target_true": "Italy",
     "rephrase_prompts": [f"We know {name} is of"], "locality_prompts": [["Berlin is of", "Germany"]]}
    for name, new in (("Rome", "Japan"), ("Lyon", "Italy"))
]  # fmt: skip
PRESET = {"layers": [1, 2], "alpha": 0.5, "v_num_grad_steps": 3, "mom2_n_samples": 8, "mom2_update_weight": 2.0}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Everything that an experiment may name: a model, facts, snippets, a text, a preset, a corpus."""
    tiny_model("llama", torch.float32).save_pretrained(tmp_path / "model")
    tiny_tokenizer(bos=True).save_pretrained(tmp_path / "model")
    (tmp_path / "facts.json").write_text(json.dumps(TWO))
    (tmp_path / "snippets.json").write_text('[{"relation_id": "P1", "target_id": "Q1", "samples": []}]')
    (tmp_path / "held_out.txt").write_text("The river runs through the old town because of rain. " * 4)
    (tmp_path / "corpus.txt").write_text("The old town. The river.\n" * 40)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**PRESET, "mom2_dataset": str(tmp_path / "corpus.txt")}))
    (tmp_path / "rome.yaml").write_text("alg_name: ROME\nlayers: [1]\nmom2_dataset: wikipedia\n")
    return tmp_path


def settings(folder: Path) -> list[str]:
    return [
        f"model.source={folder / 'model'}", f"data.source={folder / 'facts.json'}", "facts=2", "round=2",
        f"data.snippets={folder / 'snippets.json'}", "metrics=[probability,perplexity]",
        f"metrics.perplexity.text={folder / 'held_out.txt'}", f"out={folder / 'out'}",
    ]  # fmt: skip


def cell_plan(folder: Path, *more: str) -> CellPlan:
    preset = f"preset={folder / 'mine.yaml'}"
    return CellPlan.from_config(composed("sweep", [*settings(folder), preset, "store=null", *more]))


def comparison(folder: Path) -> Plan:
    methods = ["methods=[NSE,ROME]", f"methods.NSE.preset={folder / 'mine.yaml'}"]
    return Plan.from_config(
        composed("compare", [*settings(folder), *methods, f"methods.ROME.preset={folder}/rome.yaml"])
    )


def asked(plan: Plan, name: str = "NSE") -> dict:
    return inputs.of_method(plan, name, read_facts(plan.data, plan.facts))


def changed(path: Path) -> None:
    """A byte of it, at the same size and with the same modification time."""
    stat, data = path.stat(), path.read_bytes()
    if path.suffix == ".safetensors":
        data = data[:-1] + bytes([data[-1] ^ 1])
    else:
        word, other = next(pair for pair in SAME_SIZE if pair[0] in data)
        data = data.replace(word, other, 1)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


SAME_SIZE = [
    (b"Japan", b"Italy"), (b"P1", b"P2"), (b"river", b"cold "), (b"alpha: 0.5", b"alpha: 0.6"),
    (b"initializer_range", b"initializer_rangf"), (b'"<s>"', b'"<t>"'), (b"layers: [1]", b"layers: [2]"),
]  # fmt: skip
CHANGES = {
    "facts.json": r"content of data\.source was [\d,]+ bytes, sha256 \w{8}, now [\d,]+ bytes, sha256 \w{8}",
    "snippets.json": r"content of data\.snippets was ",
    "held_out.txt": r"content of metrics\.perplexity\.text was ",
    "corpus.txt": r"content of \w+\.mom2_dataset was ",
    "mine.yaml": r"values of the preset\.alpha was 0\.5, now 0\.6",
    "model/model.safetensors": r"content of model\.source, model\.safetensors was ",
    "model/config.json": r"content of model\.source, config\.json was ",
    "model/tokenizer_config.json": r"content of model\.source, tokenizer_config\.json was ",
}


@pytest.mark.parametrize("file", CHANGES)
def test_a_sweep_does_not_read_cells_of_other_contents(folder, file):
    plan = cell_plan(folder)
    cell.run_cell(plan)
    cell.check_before(plan)
    changed(folder / file)
    said = rf"holds results of other inputs \({CHANGES[file]}"
    with pytest.raises(PlanError, match=said):
        cell.check_before(plan)
    with pytest.raises(PlanError, match=said) as refused:
        cell.run_cell(plan)
    assert not re.search(r"[0-9a-f]{9}", str(refused.value).replace(str(folder), ""))  # no whole hash


def test_what_one_cell_names_is_its_own(folder, capsys):
    (folder / "mine.yaml").write_text(yaml.safe_dump(PRESET))
    own = ["-m", "hydra/launcher=basic", f"nse.mom2_dataset={folder}/corpus.txt", "nse.p=0.5"]
    arguments = ["sweep", *settings(folder), f"preset={folder}/mine.yaml", "store=null", *own]
    assert main(arguments) == 0
    changed(folder / "corpus.txt")
    for p in ("0.5", "0.9,0.5"):  # found before anything is run, and when its turn comes
        assert main([*arguments[:-1], f"nse.p={p}"]) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("nse: ")
        assert "content of nse.mom2_dataset was" in said


@pytest.mark.parametrize("file", CHANGES)
def test_a_comparison_does_not_either(folder, file):
    plan = comparison(folder)
    record = Record(plan.out / "methods" / "NSE")
    record.open_for(asked(plan))
    record.open_for(asked(plan))
    record.end(status="done", error=None, note=None)
    changed(folder / file)
    with pytest.raises(PlanError, match=CHANGES[file]):
        record.open_for(asked(plan))


@pytest.mark.parametrize("ended", [None, {"status": "failed", "error": "no", "note": None}])
def test_a_folder_without_results_is_nobodys(folder, ended):
    """After the measurement of the unedited model failed, say."""
    plan = comparison(folder)
    record = Record(plan.out / "methods" / "NSE")
    record.open_for(asked(plan))
    if ended:
        record.end(**ended)
    changed(folder / "held_out.txt")
    record.open_for(asked(plan))
    record.end(status="done", error=None, note=None)
    changed(folder / "held_out.txt")
    with pytest.raises(PlanError, match=r"metrics\.perplexity\.text was"):
        record.open_for(asked(plan))


def with_moments(folder: Path) -> Path:
    """EasyEdit's files, as far as their names go."""
    stats = folder / "stats" / "model" / "corpus_stats"
    stats.mkdir(parents=True)
    moments = np.eye(40, dtype=np.float32)
    for layer in (1, 2):
        file = stats / f"model.layers.{layer}.mlp.down_proj_float32_mom2_8.npz"
        np.savez(file, **{"mom2.count": 1000, "mom2.mom2": 1000 * moments, "sample_size": 8})
    return stats


def test_moments_that_are_read_are_a_part_of_it(folder):
    stats = with_moments(folder)
    preset = {**PRESET, "mom2_dataset": str(folder / "corpus.txt"), "stats_dir": str(folder / "stats")}
    (folder / "mine.yaml").write_text(yaml.safe_dump(preset))
    plan = cell_plan(folder)
    cell.run_cell(plan)
    np.savez(stats / "model.layers.0.mlp.down_proj_float32_mom2_8.npz", **{"mom2.count": 1000})  # a later run's
    cell.check_before(plan)
    file = stats / "model.layers.2.mlp.down_proj_float32_mom2_8.npz"
    np.savez(file, **{"mom2.count": 1000, "mom2.mom2": 2000 * np.eye(40, dtype=np.float32), "sample_size": 8})
    for ask in (cell.check_before, cell.run_cell):
        with pytest.raises(PlanError, match=r"moments in stats_dir\.model/corpus_stats/model\.layers\.2.* was "):
            ask(plan)
    file.unlink()
    with pytest.raises(PlanError, match="moments in stats_dir"):
        cell.check_before(plan)


@pytest.mark.parametrize("given_in", ["preset", "hparams"])
def test_moments_of_other_methods_are_too(folder, given_in):
    stats = with_moments(folder)
    setting = f"stats_dir: {folder}/stats\nmom2_dataset: corpus\n" if given_in == "preset" else ""
    (folder / "rome.yaml").write_text(f"alg_name: ROME\nlayers: [1]\n{setting}")
    plan = comparison(folder)
    if given_in == "hparams":
        given = {"stats_dir": f"{folder}/stats", "mom2_dataset": "corpus"}
        plan = replace(plan, methods={**plan.methods, "ROME": replace(plan.methods["ROME"], hparams=given)})
    before = asked(plan, "ROME")
    with next(stats.iterdir()).open("ab") as stream:
        stream.write(b"x")
    assert inputs.difference(before, asked(plan, "ROME")).startswith("moments in stats_dir.model/corpus_stats/")


def test_methods_do_not_depend_on_each_others_files(folder):
    plan = comparison(folder)
    before = {name: asked(plan, name) for name in (BEFORE, "NSE", "ROME")}
    changed(folder / "rome.yaml")
    found = {name: inputs.difference(before[name], asked(plan, name)) for name in before}
    assert (found[BEFORE], found["NSE"]) == (None, None)
    assert found["ROME"] == "values of the preset.layers was [1], now [2]"


def test_an_archive_of_mend_is_a_part_of_its_result(folder):
    archive = folder / "trained.pt"
    (folder / "rome.yaml").write_text(f"alg_name: MEND\narchive: {archive}\n")
    more = ["methods=[MEND]", f"methods.MEND.preset={folder}/rome.yaml"]
    plan = Plan.from_config(composed("compare", [*settings(folder), *more]))
    archive.write_bytes(b"one")
    before = asked(plan, "MEND")
    archive.write_bytes(b"two")
    assert "content of hparams.archive was 3 bytes" in str(inputs.difference(before, asked(plan, "MEND")))


def test_a_preset_may_hold_whatever_yaml_does(folder):
    (folder / "rome.yaml").write_text("alg_name: ROME\nlayers: [1]\ntried: 2026-11-27\n5: five\n")
    plan = comparison(folder)
    before = json.loads(json.dumps(asked(plan, "ROME")))
    assert inputs.difference(before, asked(plan, "ROME")) is None


def test_another_version_is_another_comparison(folder, monkeypatch):
    plan = comparison(folder)
    before = asked(plan)
    real = inputs.version
    monkeypatch.setattr(inputs, "version", lambda name: "9.9" if name == "transformers" else real(name))
    assert str(inputs.difference(before, asked(plan))).startswith("version of transformers was ")


def test_easyedit_is_its_version_or_what_a_clone_holds(folder, monkeypatch):
    plan = comparison(folder)
    wheel = asked(plan)
    (folder / "clone" / "easyeditor").mkdir(parents=True)
    (folder / "clone" / "easyeditor" / "a.py").write_text("x = 1")
    monkeypatch.setenv("EASYEDIT_HOME", str(folder / "clone"))
    clone = asked(plan)
    (folder / "clone" / "easyeditor" / "a.py").write_text("x = 2")
    assert re.search(r"version of easyeditor was .*, now a clone", str(inputs.difference(wheel, clone)))
    assert "version of easyeditor was a clone" in str(inputs.difference(clone, asked(plan)))


def test_results_of_before_all_this_was_noted_are_not_taken_for_these(folder):
    plan = comparison(folder)
    earlier = {**plan.what_decides("NSE"), "data_sha256": "ab" * 32}
    assert "content of model.source was not noted, now" in str(
        inputs.difference(json.loads(json.dumps(earlier)), asked(plan))
    )


def test_a_process_that_goes_on_reads_changed_files_anew(folder):
    """Another `out`, so that nothing is refused: what counts is what is written there."""
    first = cell.run_cell(cell_plan(folder))
    (folder / "facts.json").write_text(json.dumps([{**fact, "target_new": "Germany"} for fact in TWO]))
    tiny_model("llama", torch.float32, seed=1).save_pretrained(folder / "model")
    second = cell.run_cell(cell_plan(folder, f"out={folder / 'other'}"))
    assert (set(first.facts["target_new"]), set(second.facts["target_new"])) == ({"Japan", "Italy"}, {"Germany"})
    assert first.overall["perplexity"] != second.overall["perplexity"]


def test_a_worker_that_starts_later_meets_the_same_files(folder):
    plan = comparison(folder)
    record = Record(plan.out / "methods" / "NSE")
    record.open_for(asked(plan))
    changed(folder / "facts.json")
    with pytest.raises(PlanError, match=r"content of data\.source was"):
        worker.run(plan, "NSE", record, lambda news: None)


def test_a_file_is_read_once_until_it_is_changed(folder, monkeypatch):
    monkeypatch.setattr(inputs, "time", SimpleNamespace(time=lambda: (folder / "model").stat().st_ctime + 60))
    inputs._content.cache_clear()
    plan = cell_plan(folder)
    asked = [inputs.of_cell(plan, cell.facts_of(plan)) for _ in range(3)]
    assert asked[0] == asked[1] == asked[2]
    read = inputs._content.cache_info()
    assert read.misses == len(list((folder / "model").glob("*.json"))) + 5  # the weights and four texts
    assert read.hits >= 2 * read.misses


def test_a_model_on_the_hub_is_its_commit(monkeypatch):
    monkeypatch.setattr(inputs, "model_config", lambda source: None)
    cached = "/cache/models--org--name/snapshots/0123abc/config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: cached)
    assert inputs.model_content("org/name") == {"commit": "0123abc"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert inputs.model_content("org/name") == {"commit": "unknown"}


def test_an_adapter_depends_on_its_base_too(folder):
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder / "model")}))
    (adapter / "adapter_model.safetensors").write_bytes(b"lora")
    before = inputs.model_content(str(adapter))
    changed(folder / "model" / "model.safetensors")
    after = inputs.model_content(str(adapter))
    assert {name for name in before if before[name] != after[name]} == {"base, model.safetensors"}


def test_what_others_leave_in_a_models_folder_plays_no_part(folder):
    before = inputs.model_content(str(folder / "model"))
    (folder / "model" / "README.md").write_text("hello")
    (folder / "model" / "checkpoint-1").mkdir()
    (folder / "model" / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    assert inputs.model_content(str(folder / "model")) == before
    assert "model.safetensors" in before


def test_files_of_all_kinds_and_in_folders_below_are_a_models(folder):
    """As far as transformers reads them: parts of a large model wherever its index says, code, other tokenizers."""
    model = folder / "model"
    index = {"weight_map": {"a": "parts/model-00001.safetensors", "b": "parts/model-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "broken.index.json").write_text("[]")
    names = ("parts/model-00001.safetensors", "parts/model-00002.safetensors", "code/layers.py", "words.tiktoken",
             "bpe.codes", "vocab.pkl", "model.gguf", "tf_model.h5", "flax_model.msgpack")  # fmt: skip
    for name in names:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"one")
    before = inputs.model_content(str(model))
    for name in names:
        (model / name).write_bytes(b"two")
    after = inputs.model_content(str(model))
    assert {name for name in before if before[name] != after[name]} == set(names)


def test_a_path_that_begins_at_home_is_a_file_too(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert list(inputs.files_named({"text": "~/held_out.txt", "tasks": ["~/corpus.txt", "mmlu"], "n": 3})) == [
        "text", "tasks ~/corpus.txt",
    ]  # fmt: skip
