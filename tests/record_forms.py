"""Records of one fact, in all published forms."""

from __future__ import annotations

from hypothesis import strategies as st

from nse_plugin.facts import Fact

FRANCE = Fact("The capital of {} is", "France", "Lyon", "Paris")
TEXT = st.text(min_size=1).filter(lambda text: text.strip())
FACTS = st.builds(
    Fact,
    prompt=st.tuples(TEXT, TEXT).map("{}".join).filter(lambda prompt: prompt.count("{}") == 1),
    subject=TEXT,
    target_new=TEXT,
    target_true=st.none() | TEXT,
    rephrase_prompts=st.lists(TEXT, max_size=3),
    locality_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    case_id=st.none() | st.integers() | TEXT,
    generation_prompts=st.lists(TEXT, max_size=3),
    reference_texts=st.lists(TEXT, max_size=3),
    portability_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    reversal_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
)
