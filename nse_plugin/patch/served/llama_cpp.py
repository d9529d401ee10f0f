"""Generate text with llama.cpp in this process (package xllamacpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nse_plugin.patch.columns import PatchError


@dataclass(frozen=True)
class Served:
    """A greedy continuation: its text and its token ids."""

    text: str
    tokens: tuple[int, ...]


def served_answers(
    file: Path, prompts: Sequence[Sequence[int] | str], adapter: Path | None = None, tokens: int = 8, threads: int = 1
) -> list[Served]:
    """Return greedy continuations with at most `tokens` tokens from llama.cpp.

    file: a GGUF model. prompts: token ids, or texts, which llama.cpp tokenises by the file's settings. adapter: a GGUF
    adapter for the model. Needs `xllamacpp`. Raises PatchError if it is not installed, the model or the adapter cannot
    be loaded, or llama.cpp refuses a prompt.
    """
    sizes = (len(prompt.encode() if isinstance(prompt, str) else prompt) for prompt in prompts)
    longest = max(sizes, default=0)  # a text has at most one token per byte
    server = _server(file, adapter, longest + tokens + 8, threads)
    return [_answered(server, prompt, tokens) for prompt in prompts]


def _server(file: Path, adapter: Path | None, length: int, threads: int) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise PatchError("asking llama.cpp needs xllamacpp: pip install 'nse-plugin[serve]'.") from error
    for path in (file, *([] if adapter is None else [adapter])):
        if not Path(path).is_file():
            raise PatchError(f"{path}: there is no such file; give a GGUF file.")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.verbosity = length, -1
    params.cpuparams.n_threads = threads
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        other = "" if adapter is None else f" with {adapter}"
        raise PatchError(
            f"llama.cpp cannot load {file}{other} ({error}): give a GGUF model, and an adapter written for it."
        ) from error


def _answered(server: Any, prompt: Sequence[int] | str, tokens: int) -> Served:
    asked = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "n_predict": tokens, "temperature": 0.0, "cache_prompt": False, "return_tokens": True, "verbose": True,
    }  # fmt: skip
    answer = server.handle_completions(asked)
    if "choices" not in answer:
        raise PatchError(f"llama.cpp refused a prompt: {answer.get('error', answer)}")
    return Served(str(answer["choices"][0]["text"]), tuple(answer["__verbose"]["tokens"]))
