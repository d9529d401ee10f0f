"""llama.cpp, run in this process, gives the answers of the edited model, for a tiny GGUF file and for SmolLM2's."""

from __future__ import annotations

import importlib.util

import pytest
from sentences import demo_sentences
from tiny_gguf import alike, best, first_tokens

from nse_plugin import EditPatch, EditSession, Fact, NSEHyperParams
from nse_plugin.facts.files import load_facts
from nse_plugin.models.embedded import PACKAGE, gguf_path
from nse_plugin.models.gguf.file import load_gguf
from nse_plugin.patch.served import check as served_check
from nse_plugin.patch.served.check import check_served
from nse_plugin.patch.served.llama_cpp import Served, served_answers

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
from benchmarks.shipping import requantised

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE.replace("-", "_")) is None, reason=f"needs the package {PACKAGE}"
)
FACTS = load_facts("demo").facts[:4]
# What stands before a fact when llama.cpp is asked. In all of them the model is sure of what it says: it leads by 0.86
# at least, and llama.cpp's numbers differ by 0.3 at most, for it rounds activations.
CONTEXTS = (
    "{}", "He said that it is so. {}", "In the year of her life, she went. {}", "It was raining in the town. {}",
    "The book was on the table. {}", "She opened the door and listened. {}", "Nobody had asked him about it. {}",
    "We read it in the newspaper. {}",
)  # fmt: skip


def edited(file, folder):
    """(the model of a GGUF file's weights, with FACTS written into it, its tokenizer, the patch)."""
    model, tokenizer = load_gguf(file)
    corpus, stats = str(demo_sentences(folder)), str(folder / "stats")
    hparams = NSEHyperParams.for_model(model, solver="fast", mom2_dataset=corpus, mom2_n_samples=150, stats_dir=stats)
    session = EditSession(model, tokenizer, hparams, templates=CONTEXTS[:3])
    session.edit(FACTS)
    return model, tokenizer, EditPatch.of(session)


@needs_smollm2
def test_the_demo_s_file_and_an_adapter_say_what_the_edited_model_says(tmp_path):
    model, tokenizer, patch = edited(gguf_path(), tmp_path)
    adapter = patch.to_gguf_lora(tmp_path / "adapter.gguf", gguf_path())
    prompts = [tokenizer(context.format(fact.text)).input_ids for context in CONTEXTS for fact in FACTS]
    expected = best(model, prompts)
    assert alike(first_tokens(served_answers(gguf_path(), prompts, adapter, tokens=1)), expected) >= 0.98
    assert alike(first_tokens(served_answers(gguf_path(), prompts[:4], tokens=1)), expected[:4]) < 0.5


@needs_smollm2
def test_facts_written_on_the_quantised_weights_hold_where_they_are_served(tmp_path):
    """SmolLM2's file requantised to Q4_0, edited there."""
    file = requantised(gguf_path(), tmp_path / "Q4_0.gguf", "Q4_0")
    _, _, patch = edited(file, tmp_path)
    adapter = patch.to_gguf_lora(tmp_path / "adapter.gguf", file)
    written = patch.to_gguf(tmp_path / "model.gguf", file)
    for served, own in ((file, adapter), (written, None)):
        table = check_served(served, FACTS, own)
        assert [row["prompt"] for row in table] == [fact.text for fact in FACTS]
        assert sum(row["holds"] for row in table) >= 3
    assert sum(row["holds"] for row in check_served(file, FACTS)) <= 1


def test_a_target_is_a_whole_word(monkeypatch):
    texts = {" Rome, where": True, " Romeo": False, "Rome": True, " the Rome": False}
    monkeypatch.setattr(served_check, "served_answers", lambda *_: [Served(text, ()) for text in texts])
    table = check_served("x.gguf", [Fact("{} is in", str(number), "Rome") for number in range(len(texts))])
    assert [row["holds"] for row in table] == list(texts.values())
