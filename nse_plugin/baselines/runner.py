"""Run any EasyEdit algorithm on one loaded model, round after round, through EasyEdit's `ALG_DICT`.

EasyEdit's editors run an algorithm once, on a model that they load themselves, and do not clean up its side effects. A
comparison needs more: the same model before every method, a separate memory for each method, rounds that are
reproducible to the bit, and sequences of rounds that can be resumed from a file. So for every call:

- random number generators are seeded; afterwards they and the model's flags are as before;
- what the algorithm keeps in module globals (context templates, covariances) belongs to one `EasyEditRunner`;
- second moments are those of NSE (`nse_plugin.moments`), measured in one pass on the unedited model, without Wikipedia;
- context templates are sampled by `nse_plugin.models.writing.generation`, since EasyEdit's sampler passes a wrong
  attention mask to current versions of transformers;
- the algorithm's standard output goes to the log, at level DEBUG.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

from nse_plugin.baselines import grace
from nse_plugin.baselines.hparams import lacking
from nse_plugin.baselines.lifelong.choice import with_own_memory
from nse_plugin.baselines.lifelong.memory import StatefulMethod
from nse_plugin.baselines.mend import ArchiveError
from nse_plugin.baselines.moments import asks_for_moments, moments_for
from nse_plugin.baselines.registry import all_algorithms, modules_of
from nse_plugin.baselines.requests import padded_tokenizer, request_of
from nse_plugin.baselines.saved_state import (
    WEIGHTS_ALONE,
    facts_of_tensor,
    own_state,
    prefix_of,
    under_prefix,
    weight_fingerprints,
)
from nse_plugin.baselines.scopes import ToLog, own_memories, seeded, text_writer, undisturbed
from nse_plugin.easyedit import wheel
from nse_plugin.easyedit.algorithm import ALG_NAME as NSE
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.facts import Fact, FactError
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.method.update import UpdateError
from nse_plugin.models.layout import Layout, LayoutError, OutputMatrix
from nse_plugin.moments.measure import MomentsError
from nse_plugin.session.state import EditState
from nse_plugin.support.suggestions import in_a_line
from nse_plugin.support.timing import timed

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_EDITS_WEIGHTS = (*WEIGHTS_ALONE, NSE, "AlphaEdit", "ULTRAEDIT")  # all edits of these are in the weights
_VALUE_STEPS = ("compute_z", "compute_v")  # MEMIT's and ROME's
_USER_ERRORS = (FactError, LayoutError, MomentsError, UpdateError, ArchiveError)


class MethodError(RuntimeError):
    """An algorithm is unknown to EasyEdit, has failed, or cannot continue; the message names it."""


class EasyEditRunner:
    """One EasyEdit algorithm on one loaded model.

    model: an unedited transformers causal language model; it is edited in place. tokenizer: its tokenizer, with any
    padding settings; it is not changed. alg_name: a name in EasyEdit's `ALG_DICT`. hparams: from `load_hparams`. seed:
    for the texts and random numbers that the algorithm samples. store: where second moments without a stats_dir are
    kept; None: the user's cache folder.

    seconds: wall-clock seconds so far: "edit" is the total; algorithms whose parts can be timed separately also have
    "values" (z or v), "moments" (loading or measuring second moments) and "update" (the rest).

    Raises MethodError if the algorithm is unknown, ImportError if there is no EasyEdit.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        alg_name: str,
        hparams: Any,
        seed: int = 0,
        store: str | None = None,
    ) -> None:
        algorithms = all_algorithms()
        if alg_name not in algorithms:
            raise MethodError(lacking(alg_name, algorithms))
        self.model, self.alg_name, self.hparams = model, alg_name, hparams
        self._seed, self._store = seed, store
        self.values_from_store = 0  # number of NSE's z that were read from the store so far
        self.seconds: dict[str, float] = {"edit": 0.0}
        self._apply = with_own_memory(alg_name, algorithms[alg_name])
        self._tokenizer = padded_tokenizer(tokenizer, alg_name, getattr(self._apply, "padding_side", "right"))
        self._modules = modules_of(self._apply)
        self._memories: dict[tuple[str, str], Any] = {}
        self._moments: dict[str, Tensor] | None = None  # by module name
        self._unedited = weight_fingerprints(model)

    def edit(self, facts: Sequence[Fact]) -> pandas.DataFrame:
        """Write one round of facts into the model, in place: in one call if EasyEdit lists the algorithm as batchable,
        otherwise one by one.

        Returns one row per fact: case_id (the fact's index in the round if it has none), status and residual (NSE's
        own; "done" and NaN for other algorithms).
        Raises MethodError if the algorithm fails, and this package's own errors if facts, second moments or an archive
        cannot be used. Discard the model then, except after NSE.
        """
        import pandas

        if not facts:
            raise FactError("facts is empty: a round needs at least one.")
        started = time.monotonic()
        self._prepare()
        with self._at_work():
            for chunk in [facts] if self._batchable else [[fact] for fact in facts]:
                self._call([request_of(fact, self.hparams) for fact in chunk])
        self._count(time.monotonic() - started)
        if self.alg_name == NSE:
            return self._nse_state().reports[-1].frame[["case_id", "status", "residual"]]
        names = [number if fact.case_id is None else fact.case_id for number, fact in enumerate(facts)]
        return pandas.DataFrame({"case_id": names, "status": "done", "residual": float("nan")})

    @property
    def edits_weights(self) -> bool:
        """Whether all edits are in the model's own parameters."""
        own = dict(self.model.named_parameters()).keys() == self._unedited.keys()
        return own and self.alg_name in _EDITS_WEIGHTS

    def state(self) -> dict[str, Tensor] | None:
        """Return everything besides the unedited model that `resume` needs: the changed parameters, each in its own
        shape, as "weights.<name>", and the algorithm's state under "nse.", "grace.", "alphaedit." or "ultraedit.".

        Returns None if the algorithm has state that cannot be saved, so that it cannot be resumed from a file.
        """
        parameters = dict(self.model.named_parameters())
        if parameters.keys() != self._unedited.keys():
            return None
        own = own_state(self.alg_name, self._apply, self.model)
        if own is None:
            return None
        now = weight_fingerprints(self.model)
        changed = {name: parameters[name] for name in now if now[name] != self._unedited[name]}
        return {**{f"weights.{name}": weight.detach().clone() for name, weight in changed.items()}, **own}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Bring a new runner on an unedited model to the point where `state()` was taken: later rounds give the same
        results, to the bit, as without the interruption.

        Raises MethodError if the model has already been edited, or has no parameter with a saved name and shape.
        """
        parameters = dict(self.model.named_parameters())
        weights = {name.removeprefix("weights."): saved for name, saved in state.items() if name.startswith("weights.")}
        if weight_fingerprints(self.model) != self._unedited:
            raise MethodError(f"{self.alg_name} cannot resume on an edited model: load the model anew.")
        for name, saved in weights.items():
            if name not in parameters or parameters[name].shape != saved.shape:
                raise MethodError(
                    f"{self.alg_name}: the state has {name} {tuple(saved.shape)}, and this model has not."
                )
        self._prepare()
        unedited = EditState.fresh(self._edited_matrices()) if self.alg_name == NSE else None
        with torch.no_grad():
            for name, saved in weights.items():
                parameters[name].copy_(saved)
        if unedited is not None:
            own = under_prefix("nse.", state)
            facts = facts_of_tensor(own.pop("facts", torch.empty(0, dtype=torch.uint8)))
            masters = {int(layer): copied for layer, copied in under_prefix("masters.", own).items()}
            nse.adopt(self.model, unedited, ProtectedKeys.from_tensors(own), facts, self.hparams, masters)
        codebook = under_prefix("grace.", state)
        if codebook:
            grace.resume(self.model, self.hparams, codebook)
        if isinstance(self._apply, StatefulMethod):
            self._apply.resume(under_prefix(prefix_of(self.alg_name), state))

    # -- one call ----------------------------------------------------------------------------------------------

    @property
    def _batchable(self) -> bool:
        batch_editor = importlib.import_module("easyeditor.editors.batch_editor").BatchEditor
        return bool(batch_editor.is_batchable_method(self.alg_name))

    def _call(self, requests: list[dict[str, object]]) -> None:
        try:
            edited, _ = self._apply(
                self.model,
                self._tokenizer,
                requests,
                self.hparams,
                copy=False,
                return_orig_weights=True,
                keep_original_weight=False,
            )
        except _USER_ERRORS:
            raise
        except Exception as error:
            what = f"{requests[0]['prompt']!r}" + (f" and {len(requests) - 1} more" if len(requests) > 1 else "")
            raise MethodError(f"{self.alg_name} failed on {what}: {in_a_line(error)}") from error
        if edited is not self.model:
            raise MethodError(
                f"{self.alg_name} hands back a {type(edited).__name__} in place of the model it was given: it cannot "
                "be run round after round here."
            )

    def _count(self, seconds: float) -> None:
        """Add a round's time; "update" is the time that the round's other parts did not take."""
        self.seconds["edit"] += seconds
        if self.alg_name == NSE:
            report = self._nse_state().reports[-1]
            self.values_from_store += report.values_from_store
            for part, taken in report.seconds.items():
                self.seconds[part] = self.seconds.get(part, 0.0) + taken
        elif "values" in self.seconds:
            parts = self.seconds["values"] + self.seconds.get("moments", 0.0)
            self.seconds["update"] = self.seconds["edit"] - parts

    def _prepare(self) -> None:
        """Compute what needs the unedited model: once, before the first edit or before saved weights are restored."""
        if self._moments is not None:
            return
        with timed(self.seconds, "moments") if asks_for_moments(self.alg_name, self.hparams) else nullcontext():
            self._moments = moments_for(self.model, self._tokenizer, self.alg_name, self.hparams, self._store)
        if not hasattr(self.hparams, "fact_token"):  # the algorithm does not look up subjects
            return
        with self._at_work():
            for module in self._modules:
                if hasattr(module, "get_context_templates") and hasattr(module, "CONTEXT_TEMPLATES_CACHE"):
                    lengths = getattr(self.hparams, "context_template_length_params", None)
                    arguments = [] if lengths is None else [lengths]
                    module.get_context_templates(self.model, self._tokenizer, *arguments)

    # -- the scope of a call -----------------------------------------------------------------------------------

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Context manager that sets up everything an algorithm needs; afterwards, all but the edit is as before."""
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.model))
            stack.enter_context(seeded(self._seed, self.model))
            stack.enter_context(redirect_stdout(ToLog()))
            stack.enter_context(own_memories(self._modules, self._memories))
            if wheel.is_wheel(importlib.import_module("easyeditor.editors.editor")):
                stack.enter_context(wheel.device_meant(self.hparams))
                stack.enter_context(wheel.layers_in_tuples(Layout.of(self.model).layers))
            for module in self._modules:
                for name, ours in (("layer_stats", self._layer_stats), ("generate_fast", text_writer(self._seed))):
                    if hasattr(module, name):
                        stack.enter_context(patch.object(module, name, ours))
                for name in _VALUE_STEPS:
                    step = getattr(module, name, None)
                    if callable(step) and module.__name__ == inspect.unwrap(self._apply).__module__:
                        stack.enter_context(patch.object(module, name, self._timed(step, "values")))
            stack.enter_context(torch.enable_grad())
            yield

    def _layer_stats(
        self, model: nn.Module, tok: PreTrainedTokenizerBase, layer_name: str, *_: object, **__: object
    ) -> SimpleNamespace:
        """Replace EasyEdit's function, which would download Wikipedia and measure a model that has already been
        edited."""
        assert self._moments is not None
        moment = self._moments[layer_name]
        return SimpleNamespace(mom2=SimpleNamespace(moment=lambda: moment))

    def _timed(self, step: Callable[Arguments, Result], part: str) -> Callable[Arguments, Result]:
        def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with timed(self.seconds, part):
                return step(*args, **kwargs)

        return within

    # -- the state of NSE --------------------------------------------------------------------------------------

    def _nse_state(self) -> EditState:
        state = nse.state_of(self.model)
        assert state is not None
        return state

    def _edited_matrices(self) -> dict[int, OutputMatrix]:
        return Layout.of(self.model, self.hparams.rewrite_module_tmp).output_matrices(self.hparams.layers)
