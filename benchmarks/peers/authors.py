"""The authors' NSE (github.com/jianghoucheng/NSE), run if the variable AUTHORS_NSE names a clone of it.

The clone is imported unchanged. It was written for CUDA, for three models and for an older transformers. `_at_work`
therefore makes "cuda" mean the CPU, lets decoder layers return tuples as they used to, and passes in what the code
would read from files or generate: second moments, contexts, and in `edit` the values z.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from benchmarks.peers import NotHere
from benchmarks.peers.names import layer_in, memit_fields
from benchmarks.setting import Setting
from nse_plugin.easyedit.wheel import DeviceName, layers_in_tuples
from nse_plugin.facts import Fact
from nse_plugin.facts.texts import continuation
from nse_plugin.models.frozen import frozen

HOME = "AUTHORS_NSE"
NETHOOK = "util.nethook"  # the clone's module for hooks


class AuthorsNSE:
    """The authors' code on a setting, whose model is edited in place.

    Raises NotHere if AUTHORS_NSE is not set or names no clone, or if the clone cannot be imported.
    """

    name = "authors"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._main, self._z, self._ks = _imported()
        ours, layout = setting.hparams, setting.layout
        conv1d = isinstance(layout.output_matrix(ours.layers[0]).module, Conv1D)
        self._hparams: Any = importlib.import_module("nse.nse_hparams").NSEHyperParams(
            **memit_fields(layout, ours),
            model_name="gpt2-xl" if conv1d else "Llama3-8B",  # the known model that stores its weights alike
            alpha=ours.alpha,
            upper_bound=float("inf"),
            max_iterations=ours.max_iterations,
            neuron_threshold=1.001,  # with 1.0, rounding in its float32 sum would drop some neurons
        )

    @property
    def _contexts(self) -> list[list[str]]:
        contexts = list(self._setting.contexts)
        return [contexts[:1], contexts[1:]]

    def value(self, fact: Fact, steps: int | None = None, lr: float | None = None) -> Tensor:
        """Compute z of one fact on the current weights, [d]. steps, lr: replace those of the hyperparameters."""
        own = self._hparams.v_num_grad_steps, self._hparams.v_lr
        self._hparams.v_num_grad_steps, self._hparams.v_lr = steps or own[0], lr or own[1]
        try:
            with self._at_work():
                z: Tensor = self._z.compute_z(
                    self._setting.model, self._setting.tokenizer, _request(fact, 0), self._hparams,
                    self._hparams.layers[-1], self._contexts,
                )  # fmt: skip
                return z.detach()
        finally:
            self._hparams.v_num_grad_steps, self._hparams.v_lr = own

    def keys(self, facts: Sequence[Fact], layer: int) -> Tensor:
        """Compute the keys of one layer, [n, f]."""
        requests = [_request(fact, number) for number, fact in enumerate(facts)]
        with self._at_work():
            keys: Tensor = self._ks.compute_ks(
                self._setting.model, self._setting.tokenizer, requests, self._hparams, layer, self._contexts
            )
            return keys

    def outputs(self, facts: Sequence[Fact]) -> Tensor:
        """Compute h, the output of l_0 for the bare prompts at the subject's last token, [n, d]."""
        with self._at_work():
            output: Tensor = self._z.get_module_input_output_at_words(
                self._setting.model,
                self._setting.tokenizer,
                self._hparams.layers[-1],
                context_templates=[fact.prompt for fact in facts],
                words=[fact.subject for fact in facts],
                module_template=self._hparams.layer_module_tmp,
                fact_token_strategy=self._hparams.fact_token,
            )[1]
            return output

    def edit(self, facts: Sequence[Fact], values: Tensor) -> None:
        """Write facts with given values z [n, d] into the model."""
        requests = [_request(fact, number) for number, fact in enumerate(facts)]
        size = next(iter(self._setting.moments.values())).shape[0]
        known = torch.zeros(len(self._hparams.layers), size, size, dtype=values.dtype)
        with (
            self._at_work(),
            patch.object(self._main, "compute_z", lambda _, __, request, *___: values[request["case_id"]]),
        ):
            self._main.apply_nse_to_model(
                self._setting.model, self._setting.tokenizer, requests, self._hparams, cache_c=known
            )

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        moments, contexts = self._setting.moments, self._contexts
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(frozen(self._setting.model))
            stack.enter_context(layers_in_tuples(self._setting.layout.layers, NETHOOK))
            stack.enter_context(
                patch.object(self._main, "get_cov", lambda _, __, name, *___, **____: moments[layer_in(name)])
            )
            stack.enter_context(patch.object(self._main, "get_context_templates", lambda *_: contexts))
            stack.enter_context(_CudaMeansCpu())
            yield


def _imported() -> tuple[Any, Any, Any]:
    """Import the clone and return its modules nse_main, compute_z and compute_ks. Raises NotHere if that fails."""
    home = os.environ.get(HOME)
    if not home:
        raise NotHere(f"The authors' NSE is left out: set {HOME} to a clone of github.com/jianghoucheng/NSE.")
    folder = Path(home).expanduser().resolve()
    if not (folder / "nse" / "nse_main.py").is_file():
        raise NotHere(f"The authors' NSE is left out: {HOME} is {home!r}, and there is no nse/nse_main.py in it.")
    # Its module for measuring second moments imports libraries that are not needed here.
    unused = ModuleType("rome.layer_stats")
    unused.layer_stats = None  # type: ignore[attr-defined]
    sys.modules.setdefault("rome.layer_stats", unused)
    names = ("nse.nse_main", "nse.compute_z", "nse.compute_ks", NETHOOK)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):  # it reads globals.yml from the working directory
            for name in names:
                importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"The authors' NSE is left out: it could not be imported ({error}).") from error
    finally:
        sys.path.remove(str(folder))
    main, z, ks = (sys.modules[name] for name in names[:3])
    return main, z, ks


def _request(fact: Fact, number: int) -> dict[str, Any]:
    """Return a fact in CounterFact's form, with the space before the target that the authors' pre-pass leaves out."""
    return {
        "prompt": fact.prompt,
        "subject": fact.subject,
        "target_new": {"str": continuation(fact.text, fact.target_new, fact.separator)},
        "case_id": number,
    }


class _CudaMeansCpu(DeviceName):
    """Torch function mode that reads every "cuda" in a torch call as the CPU, and in which `.cuda()` does nothing."""

    def __init__(self) -> None:
        super().__init__("cuda", torch.device("cpu"))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func is torch.Tensor.cuda else super().__torch_function__(func, types, args, kwargs)
