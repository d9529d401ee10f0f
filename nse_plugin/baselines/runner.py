"""Any of EasyEdit's algorithms on one loaded model, round after round, called through its `ALG_DICT`.

EasyEdit's editors run an algorithm once, on a model they load themselves, and leave its side effects behind. A
comparison needs more: the same model before every method, each method's memory its own, a round that can be repeated
to the bit, and a sequence that can be resumed from a file. So around every call:

- the model's flags and the generators of random numbers are as before afterwards, and seeded within;
- what the algorithm keeps in module globals (context templates, covariances) belongs to one `EasyEditRunner`;
- second moments are NSE's (`nse_plugin.moments`), measured on the unedited model: no Wikipedia, one pass;
- context templates are sampled by `nse_plugin.models.writing.generation`: EasyEdit's sampler passes the wrong
  attention mask to a current transformers;
- what the algorithm prints goes to the log, at DEBUG.
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

_EDITS_WEIGHTS = (*WEIGHTS_ALONE, NSE, "AlphaEdit", "ULTRAEDIT")  # what these remember beside them edits nothing
_VALUE_STEPS = ("compute_z", "compute_v")  # MEMIT's and ROME's
_USER_ERRORS = (FactError, LayoutError, MomentsError, UpdateError, ArchiveError)


class MethodError(RuntimeError):
    """An algorithm that EasyEdit does not have, that failed, or that cannot continue; the message names it."""


class EasyEditRunner:
    """One EasyEdit algorithm on one loaded model.

    model: an unedited transformers causal language model; it is edited in place. tokenizer: its tokenizer, in any
    padding state; it is not touched. alg_name: a name in EasyEdit's `ALG_DICT`. hparams: what `load_hparams` returned.
    seed: of the texts and draws the algorithm takes. store: where second moments without a stats_dir are kept; None: in
    the user's cache folder.

    seconds: wall time so far: "edit" in all; and, of algorithms whose parts can be timed separately, "values" (z or v),
    "moments" (second moments found or measured) and "update" (the rest).

    Raises MethodError for an unknown algorithm, ImportError when there is no EasyEdit.
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
        self.values_from_store = 0  # of NSE's z so far
        self.seconds: dict[str, float] = {"edit": 0.0}
        self._apply = with_own_memory(alg_name, algorithms[alg_name])
        self._tokenizer = padded_tokenizer(tokenizer, alg_name, getattr(self._apply, "padding_side", "right"))
        self._modules = modules_of(self._apply)
        self._memories: dict[tuple[str, str], Any] = {}
        self._moments: dict[str, Tensor] | None = None  # by module name
        self._unedited = weight_fingerprints(model)

    def edit(self, facts: Sequence[Fact]) -> pandas.DataFrame:
        """Write one round of facts into the model, in place: in one call where EasyEdit has the algorithm down as
        batchable, else one by one.

        Returns a row per fact: case_id (its place in the round where it has none), status and residual (both NSE's;
        else "done" and NaN).
        Raises MethodError when the algorithm fails, and what this package raises for facts, second moments or an
        archive that cannot be used. The model is then to be thrown away, but for NSE.
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
        """Whether the edits are in the model's own parameters, and nowhere else."""
        own = dict(self.model.named_parameters()).keys() == self._unedited.keys()
        return own and self.alg_name in _EDITS_WEIGHTS

    def state(self) -> dict[str, Tensor] | None:
        """Everything besides the unedited model that `resume` needs: the changed parameters, each in its own shape, as
        "weights.<name>", and the algorithm's state under "nse.", "grace.", "alphaedit." or "ultraedit.".

        None: the algorithm has state that cannot be saved, so it cannot be resumed from a file.
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
        """Bring a new runner on an unedited model to where `state()` was taken: what it then writes is, to the bit,
        what it would have written without the stop.

        Raises MethodError when the model has been edited already, or has no parameter of a saved name and shape.
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
        """Add a round's time; what its other parts did not take counts as the update's."""
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
        """What must be done on the unedited model: once, before the first edit or the resumed weights."""
        if self._moments is not None:
            return
        with timed(self.seconds, "moments") if asks_for_moments(self.alg_name, self.hparams) else nullcontext():
            self._moments = moments_for(self.model, self._tokenizer, self.alg_name, self.hparams, self._store)
        if not hasattr(self.hparams, "fact_token"):  # it looks no subject up
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
        """Within, everything is as the algorithm needs it; afterwards as it was, but for the edit."""
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
        """In place of EasyEdit's, which would download Wikipedia, and measure a model that is edited already."""
        assert self._moments is not None
        moment = self._moments[layer_name]
        return SimpleNamespace(mom2=SimpleNamespace(moment=lambda: moment))

    def _timed(self, step: Callable[Arguments, Result], part: str) -> Callable[Arguments, Result]:
        def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with timed(self.seconds, part):
                return step(*args, **kwargs)

        return within

    # -- what a state holds beside the weights -----------------------------------------------------------------

    def _nse_state(self) -> EditState:
        state = nse.state_of(self.model)
        assert state is not None
        return state

    def _edited_matrices(self) -> dict[int, OutputMatrix]:
        return Layout.of(self.model, self.hparams.rewrite_module_tmp).output_matrices(self.hparams.layers)
