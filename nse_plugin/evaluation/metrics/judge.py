"""A language model as the judge of an edited model's answers: does an answer convey the target?

As in WILD (Yang et al. 2025, arXiv 2502.11177, section 4), but with our own instructions, and on any server that
implements OpenAI's chat completions API.
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
AT_ONCE = 8  # concurrent requests
INSTRUCTIONS = (
    "You grade answers. You get a question or an unfinished sentence, the answer that is expected, and the answer that "
    "was given. Say yes when the given answer states the expected one, in whatever words, spelling or language, and "
    "does not take it back or state something else instead. Whether the expected answer is true in the world does not "
    "matter. Reply with one word: yes or no."
)


class JudgeError(RuntimeError):
    """The judge cannot be queried, or its reply is not valid; the message gives the remedy."""


@dataclass(frozen=True)
class Judge:
    """A judge model on a server.

    model: the model's name on the server. base_url: the server's address, including "/v1". key: the name of the
    environment variable with the API key; a local server without keys accepts any value, but the variable must be set.
    timeout: maximum seconds per reply.
    """

    model: str
    base_url: str = OPENAI
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0

    def check(self) -> None:
        """Ask the server one question with a known answer, before anything is measured.

        Raises JudgeError if the package openai is missing, the key's variable is not set, the server cannot be reached,
        refuses the request or does not know the model, or the reply is neither yes nor no.
        """
        with self._client() as client:
            self._verdict(client, "The capital of France is", "Paris", "Paris.")

    def verdicts(self, prompts: Sequence[str], targets: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Return 1 for each text that conveys its target as an answer to its prompt, else 0. An empty text scores 0
        without a request.

        Raises JudgeError as `check` does.
        """
        asked = list(zip(prompts, targets, texts, strict=True))
        with self._client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda one: self._verdict(client, *one) if one[2].strip() else 0, asked))

    def _client(self) -> Any:
        """Return openai's client, which retries requests after temporary failures."""
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
        # after a reasoning model's thoughts, and only at the start: "There is no way to tell" is not a verdict
        word = re.match(r"\W*(?:(?:final )?answer\W*)?(yes|no)\b", reply_text.casefold().rpartition("</think>")[2])
        if word is None:
            raise JudgeError(
                f"The judge {self.model} replied {reply_text!r:.80} instead of yes or no: take a model that follows "
                "instructions."
            )
        return int(word[1] == "yes")
