"""A language model as the judge of what an edited model wrote: does this answer convey the target?

As WILD scores (Yang et al. 2025, arXiv 2502.11177, section 4), with instructions of our own, and by any server that
speaks OpenAI's chat completions.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

OPENAI = "https://api.openai.com/v1"
AT_ONCE = 8  # requests
INSTRUCTIONS = (
    "You grade answers. You get a question or an unfinished sentence, the answer that is expected, and the answer that "
    "was given. Say yes when the given answer states the expected one, in whatever words, spelling or language, and "
    "does not take it back or state something else instead. Whether the expected answer is true in the world does not "
    "matter. Reply with one word: yes or no."
)


class JudgeError(RuntimeError):
    """The judge cannot be asked, or did not answer; the message gives the remedy."""


@dataclass(frozen=True)
class Judge:
    """model: its name at the server. base_url: the server's address, up to and with "/v1". key: the name of the
    environment variable that holds the API key; a local server without keys takes any, the variable must be set though.
    timeout: seconds for one reply.
    """

    model: str
    base_url: str = OPENAI
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0

    def check(self) -> None:
        """Ask the server one question with a known answer, before anything is measured.

        Raises JudgeError when the package openai is missing, the key's variable is not set, or the server cannot be
        reached, refuses, or knows no such model.
        """
        with self._client() as client:
            self._verdict(client, "The capital of France is", "Paris", "Paris.")

    def verdicts(self, prompts: Sequence[str], targets: Sequence[str], texts: Sequence[str]) -> list[int]:
        """1 for each text that conveys its target as an answer to its prompt, else 0; an empty text is a 0 unasked.

        Raises JudgeError; as `check` does, or when a reply is neither yes nor no.
        """
        asked = list(zip(prompts, targets, texts, strict=True))
        with self._client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda one: self._verdict(client, *one) if one[2].strip() else 0, asked))

    def _client(self) -> Any:
        """The client of openai, which tries a request that fails in passing again itself."""
        if importlib.util.find_spec("openai") is None:
            raise JudgeError("A judge needs the package openai: install it with `pip install openai`.")
        if not os.environ.get(self.key):
            raise JudgeError(f"{self.key} is not set: put the judge's API key into this environment variable.")
        import openai

        return openai.OpenAI(base_url=self.base_url, api_key=os.environ[self.key], timeout=self.timeout)

    def _verdict(self, client: Any, prompt: str, target: str, text: str) -> int:
        import openai

        question = f"Question or unfinished sentence: {prompt}\nExpected answer: {target}\nGiven answer: {text}"
        turns = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
        try:
            reply = client.chat.completions.create(model=self.model, messages=turns, temperature=0)
        except openai.APIStatusError as error:
            raise JudgeError(
                f"The judge {self.model} at {self.base_url} refused ({error.status_code}: {error.message:.200}): check "
                f"the model's name, the address, and the key in {self.key}."
            ) from error
        except openai.APIConnectionError as error:
            raise JudgeError(
                f"The judge's address {self.base_url} cannot be reached ({error}): check base_url and that the server "
                "runs."
            ) from error
        reply_text = reply.choices[0].message.content or ""
        # after a reasoning model's thoughts, and at the beginning: "There is no way to tell" is no verdict
        word = re.match(r"\W*(?:(?:final )?answer\W*)?(yes|no)\b", reply_text.casefold().rpartition("</think>")[2])
        if word is None:
            raise JudgeError(
                f"The judge {self.model} replied {reply_text!r:.80} instead of yes or no: take a model that follows "
                "instructions."
            )
        return int(word[1] == "yes")
