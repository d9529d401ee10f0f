"""`nse values`."""

from __future__ import annotations

import argparse
import dataclasses

from tiny import CHAT, tiny_tokenizer

from nse_plugin.cli import values


def test_values_are_those_of_facts_in_a_chat(saved, hparams):
    tiny_tokenizer(chat={"default": CHAT, "loud": CHAT}).save_pretrained(saved)
    for chat in (True, "loud"):
        arguments = argparse.Namespace(model=saved, chat=chat)
        assert values._in_chat(hparams, arguments) == dataclasses.replace(hparams, chat=chat)
