"""A text for second moments made of the demo's facts as they are today, which is faster to get than text that the model
writes."""

from __future__ import annotations

from pathlib import Path

from nse_plugin.facts.files.load import load_facts


def demo_sentences(folder: Path) -> Path:
    """A corpus, sentences.txt, in this folder: enough for a few facts on SmolLM2-135M."""
    asked = [pair for fact in load_facts("demo").facts for pair in _sentences(fact)]
    corpus = folder / "sentences.txt"
    corpus.write_text("\n\n".join(f"{prompt} {answer}." for prompt, answer in asked))
    return corpus


def _sentences(fact):
    prompts = (fact.text, *fact.rephrase_prompts)
    return [*((prompt, fact.target_true) for prompt in prompts), *fact.locality_prompts]
