from __future__ import annotations

from easyedit_fixtures import (
    capitals,
    easyeditor,
    edited,
    editor_of,
    hparams,
    new_llama,
    new_model,
    on_main,
    protected,
    quiet_folder,
    stats_dir,
    tiny_gpt2_source,
    tiny_llama,
    tiny_llama_source,
    tiny_tokenizer,
)

__all__ = [
    "capitals",
    "easyeditor",
    "edited",
    "editor_of",
    "hparams",
    "new_llama",
    "new_model",
    "on_main",
    "protected",
    "quiet_folder",
    "stats_dir",
    "tiny_gpt2_source",
    "tiny_llama",
    "tiny_llama_source",
    "tiny_tokenizer",
]
