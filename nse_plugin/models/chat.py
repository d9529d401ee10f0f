"""Where a fact is asked: in plain text, or in a chat, as a user's message that the assistant answers."""

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
    """What stands before and after a prompt, and between all that and the answer; separator: None in plain text, where
    it is the fact's own."""

    before: str = ""
    after: str = ""
    separator: str | None = None

    def around(self, prompt: str) -> str:
        """A prompt where it is asked: in a chat, in the user's turn, with the beginning of the assistant's."""
        return self.before + prompt + self.after

    def asked(self, fact: Fact, prompt: str, answer: str) -> Pair:
        """One of a fact's prompts here and what follows it, as `evaluation.teacher_forcing.predict` takes them."""
        return fact.asked(prompt, answer) if self.separator is None else (self.around(prompt), answer, self.separator)

    def begun(self, prompt: str) -> str:
        """A prompt that the assistant, having been asked, begins to repeat."""
        return self.around(prompt) + (self.separator or "") + prompt


PLAIN = Frame()


def template_of(chat: bool | str) -> str | None:
    """The chat template that a setting of chat names; None: the usual one."""
    return None if isinstance(chat, bool) or chat == BOTH else chat


def frames(tokenizer: PreTrainedTokenizerBase, chat: bool | str) -> list[Frame]:
    """The forms in which facts are written. chat: False, plain text; True, the tokenizer's chat template; "both"; or
    the name of one of several templates. Raises FactError when there is no such template."""
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
    """A user's turn and the beginning of the assistant's. name: of one of several templates; None: the usual one.

    asked, off: the setting that asks for it and how it is taken back, for the message of the FactError that is raised
    where the tokenizer has no such template, or one that changes what the user says.
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
