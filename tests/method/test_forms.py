"""A fact is written with one value for every name of its subject, in plain text, in a chat, or in both."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from oracles import relative
from tiny import CHAT, TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import FactError
from nse_plugin.method.value_optimizer import LONG
from nse_plugin.models.chat import chat_frame
from nse_plugin.models.prompts import encode_fact

LAYERS = [1, 2]
ROME = Fact("{} is an old town of", "Rome", "Italy", case_id=5)
CURIE = Fact("{} speaks", "Marie Curie", "Italian", aliases=("Mme Curie", "the wind"), case_id=6)


def talker(template=CHAT, **settings):
    return tiny_tokenizer(chat=template, **settings)


def session_of(model, hparams, tokenizer=None, **changes):
    chosen = dataclasses.replace(hparams, **changes)
    return EditSession(model, tokenizer or talker(), chosen, tiny_moments(model, LAYERS), list(TEMPLATES))


def in_chat(fact):
    """The same as plain text: what the template makes of it, by hand."""
    prompt = f"<user>\n{fact.prompt}\n<assistant>\n"
    return dataclasses.replace(fact, prompt=prompt, aliases=())


# -- chat --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True], ids=["", "bos"])
def test_rows_in_a_chat_are_what_the_template_makes_of_them(bos):
    template = ("{{ bos_token }}" if bos else "") + CHAT
    tokenizer = talker(template, bos=bos)
    frame = chat_frame(tokenizer)
    encoded = encode_fact(tokenizer, ROME, list(TEMPLATES), frame=frame)
    for template, row in zip(TEMPLATES, encoded.rewrites, strict=True):
        turns = [{"role": "user", "content": template.replace("{}", ROME.text)}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(asked + ROME.target_new, add_special_tokens=False)["input_ids"]
        assert [*row.ids, row.targets[-1]] == ids
        assert tokenizer.decode(row.targets) == ROME.target_new
        up_to_subject = asked[: asked.index("Rome") + len("Rome")]
        assert list(row.to_lookup) == tokenizer(up_to_subject, add_special_tokens=False)["input_ids"]
        assert list(row.ids[: row.context]) == list(row.ids)[: row.context]
    assert tokenizer.decode(encoded.essence.ids).endswith("<user>\nRome")


def test_a_value_in_a_chat_is_exact(llama, hparams):
    """Against autograd through the full model, of the same text written by hand."""
    chosen = dataclasses.replace(hparams, chat=True)
    session = EditSession(llama, talker(), chosen, tiny_moments(llama, LAYERS), ["{}"])
    [found] = session.values([ROME])
    by_hand = in_chat(ROME)
    rows = list(_rows(talker(), by_hand))
    [(ids, lookup, _)] = rows
    h = oracles.run(llama, ids, LAYERS[-1])[1][lookup].detach()
    essence, updates = (ids[:, : lookup + 1], lookup), LONG * (hparams.v_num_grad_steps - 1)
    [expected] = oracles.shared_values(llama, rows, essence, [h], hparams, updates)
    assert relative(found, expected) <= 1e-6


def _rows(tokenizer, fact):
    text = fact.text
    ids = torch.tensor([tokenizer(text + fact.target_new)["input_ids"]])
    lookup = len(tokenizer(text[: text.index(fact.subject) + len(fact.subject)])["input_ids"]) - 1
    yield ids, lookup, ids.shape[1] - len(tokenizer(text)["input_ids"])


def test_both_forms_share_one_value(llama, hparams):
    session = session_of(llama, hparams, chat="both")
    values = session.values([ROME])
    assert values.shape[0] == 2
    frame = session.edit_with_values([ROME], values).frame
    assert frame["case_id"].tolist() == [5]
    assert session.state.knowledge.count == 2
    again = session_of(tiny_model("llama"), hparams, chat="both").edit([ROME]).frame
    assert again["residual"].tolist() == pytest.approx(frame["residual"].tolist())


# -- names -------------------------------------------------------------------------------------------------------


def test_every_name_has_the_fact(llama, hparams):
    """One value serves all; what a fact of each name alone would be told apart by is the key."""
    session = session_of(llama, hparams)
    values = session.values([CURIE, ROME])
    assert values.shape[0] == 4
    named = [CURIE.named(name) for name in CURIE.names]
    updates = LONG * (hparams.v_num_grad_steps - 1)
    expected = oracles.joint_values(llama, talker(), named, TEMPLATES, session.hparams, updates)
    for z, oracle in zip(values[:3], expected, strict=True):
        assert relative(z, oracle) <= 1e-6
    before = predict(llama, talker(), [(one.text, one.target_new) for one in named])
    frame = session.edit([CURIE, ROME]).frame
    after = predict(llama, talker(), [(one.text, one.target_new) for one in named])
    assert frame["case_id"].tolist() == [6, 5]
    assert frame["target_after"][0] == pytest.approx(min(one.probability for one in after.values()))
    assert frame["target_before"][0] == pytest.approx(min(one.probability for one in before.values()))
    assert session.state.knowledge.count == 4
    assert [fact.case_id for fact in session.state.history.rounds[-1].facts] == [6, 5]


def test_a_fact_about_an_alias_is_about_the_same_thing(llama, hparams):
    session = session_of(llama, hparams)
    session.edit([CURIE])
    report = session.edit([Fact("{} is", "Mme Curie", "old")])
    assert report.frame["same_subject"].tolist() == [1]
    assert [fact.subject for fact in session.state.history.rounds[-1].facts] == ["Mme Curie", "Marie Curie"]


def test_names_are_texts_and_the_subject_is_not_one_of_them_twice():
    assert dataclasses.replace(CURIE, aliases=("Marie Curie", "Mme")).names == ("Marie Curie", "Mme")
    assert Fact.from_record({**dataclasses.asdict(CURIE)}) == CURIE
    with pytest.raises(FactError, match="aliases holds ''"):
        Fact("{} is", "Rome", "old", aliases=("",))
    with pytest.raises(FactError, match="aliases is 'Roma'"):
        Fact("{} is", "Rome", "old", aliases="Roma")
