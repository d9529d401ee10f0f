"""EasyEdit's MEMIT on the setting's model, contexts and second moments.

With the settings `AS_MEMIT`, which switch off NSE's own ideas, this package computes the same.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from benchmarks.peers import NotHere
from benchmarks.peers.names import layer_in, memit_fields
from benchmarks.setting import Setting
from nse_plugin.facts import Fact

AS_MEMIT: dict[str, Any] = {
    "preset": "paper", "rewind": False, "p": 1.0, "max_iterations": 1, "accumulate": False,
}  # fmt: skip


class EasyEditMemit:
    """MEMIT on a setting, whose model is edited in place. Raises NotHere if EasyEdit is not installed."""

    name = "EasyEdit"

    def __init__(self, setting: Setting) -> None:
        if importlib.util.find_spec("easyeditor") is None and not os.environ.get("EASYEDIT_HOME"):
            raise NotHere("EasyEdit's MEMIT is left out: `pip install --no-deps easyeditor==0.0.1.dev0` brings it.")
        from nse_plugin.easyedit import register, wheel

        register()
        self._setting = setting
        self._wheel = wheel
        self._easyeditor = importlib.import_module("easyeditor")
        self._memit: Any = importlib.import_module("easyeditor.models.memit.memit_main")
        self._is_wheel = wheel.is_wheel(importlib.import_module("easyeditor.editors.editor"))
        self._hparams = self._as_memit()

    def edit(self, facts: Sequence[Fact]) -> None:
        """Write all facts with one call of MEMIT's own apply function."""
        requests = [
            {"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target_new, "case_id": number}
            for number, fact in enumerate(facts)
        ]
        setting = self._setting
        moments, contexts = setting.moments, list(setting.contexts)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if self._is_wheel:
                stack.enter_context(self._wheel.device_meant(self._hparams))
                stack.enter_context(self._wheel.layers_in_tuples(setting.layout.layers))
            # Second moments and contexts are passed in: reading and generating them is not part of the comparison.
            for name, given in (
                ("get_cov", lambda model, tok, name, *_, **__: moments[layer_in(name)]),
                ("get_context_templates", lambda *_: [contexts[:1], contexts[1:]]),
            ):
                stack.enter_context(patch.object(self._memit, name, given))
            self._memit.apply_memit_to_model(setting.model, setting.tokenizer, requests, self._hparams, copy=False)

    def _as_memit(self) -> Any:
        return self._easyeditor.MEMITHyperParams(
            **memit_fields(self._setting.layout, self._setting.hparams),
            alg_name="MEMIT",
            device="cpu",
            model_name="",
            stats_dir="",
            batch_size=100,
        )
