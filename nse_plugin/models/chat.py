"""The form in which a fact is prompted: in plain text, or in a chat, as a user's message that the assistant answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nse_plugin.facts import Fact, FactError, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOTH = "both"
_MESSAGE, _ANSWER = "The user's message.", "The assistant's answer."


@dataclass(frozen=True)
class Frame:
    """The text before and after a prompt, and the separator between the framed prompt and the answer. separator: None
    in plain text, where the fact's own separator is used."""

    before: str = ""
    after: str = ""
    separator: str | None = None

    def around(self, prompt: str) -> str:
        """Return the framed prompt: in a chat, the user's turn and the beginning of the assistant's."""
        return self.before + prompt + self.after

    def asked(self, fact: Fact, prompt: str, answer: str) -> Pair:
        """Return (prompt, answer[, separator]) in this frame, as `evaluation.teacher_forcing.predict` takes it."""
        return fact.asked(prompt, answer) if self.separator is None else (self.around(prompt), answer, self.separator)

    def begun(self, prompt: str) -> str:
        """Return the framed prompt followed by an answer that begins by repeating the prompt."""
        return self.around(prompt) + (self.separator or "") + prompt


PLAIN = Frame()


def template_of(chat: bool | str) -> str | None:
    """Return the name of the chat template that a value of `chat` gives; None for the default template."""
    return None if isinstance(chat, bool) or chat == BOTH else chat


def frames(tokenizer: PreTrainedTokenizerBase, chat: bool | str) -> list[Frame]:
    """Return the frames in which facts are written. chat: False for plain text; True for the tokenizer's chat template;
    "both"; or the name of one of several templates. Raises FactError if there is no such template."""
    if chat is False:
        return [PLAIN]
    own = chat_frame(tokenizer, template_of(chat), asked=f"chat is {chat!r}")
    return [PLAIN, own] if chat == BOTH else [own]


def chat_frame(
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    *,
    asked: str = "chat is True",
    off: str = "set it to False",
) -> Frame:
    """Return the frame of a chat: a user's turn and the beginning of the assistant's. name: of one of several
    templates; None: the default template.

    asked, off: the setting that requests the frame and how to turn it off, for the error message. Raises FactError if
    the tokenizer has no such template, or if the template changes the user's message.
    """
    templates = getattr(tokenizer, "chat_template", None)
    if not templates or (name is not None and name not in (templates if isinstance(templates, dict) else ())):
        which = "no chat template" if name is None else f"no chat template {name!r}"
        raise FactError(f"{asked}, and the tokenizer has {which}: {off}, or take a model tuned to chat.")

    def rendered(answer: bool) -> str:
        turns = [{"role": "user", "content": _MESSAGE}, {"role": "assistant", "content": _ANSWER}]
        text = str(
            tokenizer.apply_chat_template(
                turns[: 1 + answer], tokenize=False, add_generation_prompt=not answer, chat_template=name
            )
        )
        bos = tokenizer.bos_token  # tokenising the text adds one
        ids: list[int] = tokenizer("a")["input_ids"]
        return text.removeprefix(bos) if bos is not None and ids[:1] == [tokenizer.bos_token_id] else text

    turn, answered = rendered(answer=False), rendered(answer=True)
    if turn.count(_MESSAGE) != 1:
        raise FactError(f"{asked}, and the tokenizer's chat template changes what the user says: {off}.")
    before, after = turn.split(_MESSAGE)
    follows = answered.startswith(turn) and _ANSWER in answered
    return Frame(before, after, answered[len(turn) : answered.index(_ANSWER)] if follows else "")
