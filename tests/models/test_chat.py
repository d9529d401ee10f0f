"""Prompts in plain text and in a chat."""

from __future__ import annotations

import dataclasses

import pytest
from tiny import CHAT, TEMPLATES, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact
from nse_plugin.facts import FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.chat import PLAIN, chat_frame, frames
from nse_plugin.models.prompts import encode_fact

ROME = Fact("{} is an old town of", "Rome", "Italy")


def talker(template=CHAT):
    return tiny_tokenizer(chat=template)


def test_the_separator_of_a_chat_is_the_templates():
    spaced = CHAT.replace("'>\n' + m['content']", "'>\n' + (' ' if m['role'] == 'assistant' else '') + m['content']")
    assert chat_frame(talker()).separator == ""
    assert chat_frame(talker(spaced)).separator == " "
    [row] = encode_fact(talker(spaced), ROME, ["{}"], frame=chat_frame(talker(spaced))).rewrites
    assert talker().decode(row.targets).strip() == "Italy"


def test_templates_by_name_and_none_at_all(llama, hparams):
    chatting = dataclasses.replace(hparams, chat=True)
    two = talker({"default": CHAT, "loud": CHAT.replace("user", "USER")})
    assert frames(two, False) == [PLAIN]
    assert frames(two, "both")[0] is PLAIN
    with pytest.raises(FactError, match="chat is 'quiet', and the tokenizer has no chat template 'quiet'"):
        frames(two, "quiet")
    with pytest.raises(FactError, match="chat is True, and the tokenizer has no chat template: set it to False, or"):
        EditSession(llama, tiny_tokenizer(), chatting, tiny_moments(llama, [1, 2]), list(TEMPLATES)).edit([ROME])
    with pytest.raises(FactError, match="chat is True, and the .* chat template changes what the user says: set it"):
        chat_frame(talker(CHAT.replace("m['content']", "m['content'].upper()")))
    for wrong in (1, "", None):
        with pytest.raises(HyperParamsError, match="chat"):
            dataclasses.replace(hparams, chat=wrong)


def test_a_template_may_say_things_with_braces():
    """Such as JSON in a system message."""
    with_json = "Answer in JSON, {} where you do not know." + CHAT
    frame = chat_frame(talker(with_json))
    for template in ("{}", "Rain fell. {}"):
        [row] = encode_fact(talker(with_json), ROME, [template], frame=frame).rewrites
        text = frame.around(template.replace("{}", ROME.text))
        assert list(row.ids)[: len(talker(with_json)(text)["input_ids"])] == talker(with_json)(text)["input_ids"]
