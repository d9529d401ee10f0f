"""Where a fact is asked: in plain text, or in a chat, as a user's message that the assistant answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nse_plugin.facts import FactError

BOTH = "both"
_MESSAGE, _ANSWER = "The user's message.", "The assistant's answer."


@dataclass(frozen=True)
class Frame:
    """What stands before and after a prompt, and between all that and the answer; separator: None in plain text, where
    the fact says what it is."""

    before: str = ""
    after: str = ""
    separator: str | None = None


PLAIN = Frame()


def frames(tokenizer: Any, chat: bool | str) -> list[Frame]:
    """The forms in which facts are written. chat: False, plain text; True, the tokenizer's chat template; "both"; or
    the name of one of several templates. Raises FactError when there is no such template."""
    if chat is False:
        return [PLAIN]
    own = chat_frame(tokenizer, None if chat in (True, BOTH) else str(chat))
    return [PLAIN, own] if chat == BOTH else [own]


def chat_frame(tokenizer: Any, name: str | None = None) -> Frame:
    """A user's turn and the beginning of the assistant's. name: of one of several templates; None: the usual one."""
    templates = getattr(tokenizer, "chat_template", None)
    if not templates or (name is not None and name not in (templates if isinstance(templates, dict) else ())):
        which = "no chat template" if name is None else f"no chat template {name!r}"
        raise FactError(f"chat is {True if name is None else name!r}, and the tokenizer has {which}: set it to False.")

    def rendered(answer: bool) -> str:
        turns = [{"role": "user", "content": _MESSAGE}, {"role": "assistant", "content": _ANSWER}]
        text: str = tokenizer.apply_chat_template(
            turns[: 1 + answer], tokenize=False, add_generation_prompt=not answer, chat_template=name
        )
        bos = tokenizer.bos_token  # tokenising the text adds one
        ids: list[int] = tokenizer("a")["input_ids"]
        return text.removeprefix(bos) if bos is not None and ids[:1] == [tokenizer.bos_token_id] else text

    asked, told = rendered(answer=False), rendered(answer=True)
    if asked.count(_MESSAGE) != 1:
        raise FactError("The tokenizer's chat template changes what the user says: set chat to False.")
    before, after = asked.split(_MESSAGE)
    between = told[len(asked) : told.index(_ANSWER)] if told.startswith(asked) and _ANSWER in told else ""
    return Frame(before, after, between)
