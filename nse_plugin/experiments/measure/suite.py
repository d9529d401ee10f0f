"""What an experiment measures of a model: the unedited one once, every other against it, by the same families."""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
from torch import nn

from nse_plugin.evaluation.metrics.answers import TOKENS as ANSWER_TOKENS
from nse_plugin.evaluation.metrics.chat import Chat
from nse_plugin.evaluation.metrics.fluency import generation_prompts
from nse_plugin.evaluation.metrics.generation import TOKENS, Generation
from nse_plugin.evaluation.metrics.judge import Judge
from nse_plugin.evaluation.metrics.locality import locality_reference
from nse_plugin.evaluation.suite import FAMILIES, PAIRS, WRITING, Measured, forced_pairs, measure
from nse_plugin.experiments.measure.instruments import Measurement, ModelMetric, held_out_text, instruments
from nse_plugin.experiments.measure.reference import Reference
from nse_plugin.experiments.plan import EASYEDIT, ModelChoice, PlanError, known, made, positive
from nse_plugin.experiments.plan.model import model_config, model_tokenizer
from nse_plugin.experiments.record import Checkpoint, Record
from nse_plugin.facts import Fact, FactError, Pair
from nse_plugin.models.chat import PLAIN, Frame, chat_frame, frames
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.positions import check_room, max_positions
from nse_plugin.models.prompts import split_target, without_end
from nse_plugin.support.timing import timed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLUENCY_FACTS = 20

Table = TypeVar("Table", pd.DataFrame, "pd.Series[float]")


@dataclass(frozen=True)
class MetricSuite:
    """The families of metrics that were asked for, with their settings, the seed of the texts the model writes, and
    where the unedited model is."""

    metrics: Mapping[str, Mapping[str, Any]]
    seed: int
    model: ModelChoice

    @cached_property
    def instruments(self) -> dict[str, ModelMetric]:
        """Raises what `nse_plugin.experiments.measure.instruments.instruments` raises."""
        return instruments(self.metrics, self.model)

    @cached_property
    def text(self) -> str:
        """What perplexity is measured on. Raises PlanError."""
        return held_out_text("metrics.perplexity.text", self.metrics.get("perplexity", {}).get("text"))

    @property
    def generation(self) -> Generation:
        """How the model is asked to write freely. Raises PlanError for a setting that there is not."""
        settings = dict(self.metrics.get("generation", {}))
        if settings.get("judge"):
            settings["judge"] = made(Judge, "metrics.generation.judge", settings["judge"])
        return made(Generation, "metrics.generation", settings)

    @property
    def chat(self) -> Chat:
        """How the model is asked in a chat. Raises PlanError for a setting that there is not."""
        return made(Chat, "metrics.chat", dict(self.metrics.get("chat", {})))

    def check(self, facts: Sequence[Fact]) -> None:
        """Raise PlanError, QuestionError, TaskError or JudgeError for what cannot be measured as asked; no model is
        loaded, and nothing of it is read."""
        _ = self.text
        _ = self.chat, self.probability_chat
        for family in [family for family in PAIRS if family in self.metrics]:
            try:
                _ = [PAIRS[family](fact) for fact in facts]
            except FactError as error:
                besides = f" Or leave {family} out of metrics." if len(self.metrics) > 1 else ""
                raise PlanError(f"{error}{besides}") from None
        for family in ("generation", "answers", "fluency", "chat"):
            count = self.metrics.get(family, {}).get("facts")
            if count is not None:
                positive(f"metrics.{family}.facts", count)
        for instrument in self.instruments.values():
            instrument.check(facts)
        if self.generation.judge is not None:
            self.generation.judge.check()

    @property
    def probability_chat(self) -> bool | str:
        """Where the prompts of probability are asked, as in `NSEHyperParams.chat`. Raises PlanError."""
        settings = self.metrics.get("probability", {})
        known("metrics.probability", settings, ["chat"])
        chat: bool | str = settings.get("chat", False)
        return chat

    @cached_property
    def frames(self) -> dict[str, list[Frame]]:
        """Where the families ask that ask in a chat. The model's tokenizer is read, not its weights. Raises PlanError
        when it has no such chat template."""
        found: dict[str, list[Frame]] = {}
        try:
            if "chat" in self.metrics:
                found["chat"] = [self.chat.frame(self._tokenizer)]
            if self.generation.chat:
                found["generation"] = [chat_frame(self._tokenizer, asked="metrics.generation.chat is true")]
        except FactError as error:
            raise PlanError(str(error)) from None
        if self.probability_chat:
            try:
                found["probability"] = frames(self._tokenizer, self.probability_chat)
            except FactError as error:
                raise PlanError(f"metrics.probability.{error}") from None
        return found

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return model_tokenizer(self.model.source)

    def check_lengths(self, facts: Sequence[Fact]) -> None:
        """Raise PlanError for a prompt that does not fit into the model's positions, and as `frames` does. The model's
        tokenizer is read, not its weights."""
        _ = self.frames
        positions = max_positions(model_config(self.model.source))
        if positions is None:
            return
        asked = dict.fromkeys(row for fact in facts for row in self._asked(fact))
        asked |= dict.fromkeys((prompt, 0) for one in self.instruments.values() for prompt in one.prompts(facts))
        # A token is a byte or more, and hardly any tokenizer makes a text longer: short ones need not be counted.
        long = [(text, room) for text, room in asked if len("".join(text).encode()) + room >= positions // 2]
        for text, room in long:
            prompt = text if isinstance(text, str) else text[0]
            target = "" if text is prompt else f" with the target {text[1]!r:.30}"
            besides = f" with room for {room} more" if room else target
            tokens = _tokens(self._tokenizer, text) + room
            try:
                check_room(prompt, tokens, besides, positions)
            except ValueError as error:
                raise PlanError(f"{self.model.name} cannot read the {error}") from None

    def _asked(self, fact: Fact) -> Iterator[tuple[Pair | str, int]]:
        """Prompts, alone or with the target that follows, and how many tokens the model may write after each."""
        yield fact.asked(fact.text, fact.target_new), 0
        yield from ((pair, 0) for pair in forced_pairs(fact, self.metrics, self.frames))
        yield from ((frame.around(fact.text), TOKENS) for frame in self.frames.get("chat", ()))
        if any(family in self.metrics for family in WRITING):
            yield from ((prompt, 0) for prompt in generation_prompts(fact))
        if EASYEDIT in self.metrics:
            yield from ((fact.asked(prompt, fact.target_new), 0) for prompt in fact.rephrase_prompts[:1])
            yield from ((fact.asked(prompt, answer), 0) for prompt, answer in fact.locality_prompts)
        if "generation" in self.metrics:
            [frame] = self.frames.get("generation", [PLAIN])
            yield from ((frame.around(prompt), TOKENS) for prompt in (fact.text, *fact.rephrase_prompts))
        if "answers" in self.metrics:
            yield from ((prompt, ANSWER_TOKENS) for prompt in (fact.text, *fact.rephrase_prompts))

    def begin(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
    ) -> tuple[Reference, Measured, dict[str, pd.DataFrame]]:
        """The unedited model: what others are compared with, and what `measure` gives of it."""
        locality = locality_reference(model, tokenizer, facts) if "locality" in self.metrics else {}
        begun = {name: one.begin(model, tokenizer, facts) for name, one in self.instruments.items()}
        easyedit: list[Any] = []
        if EASYEDIT in self.metrics:
            from nse_plugin.baselines.metrics import easyedit_reference  # importing EasyEdit takes ten seconds

            easyedit = easyedit_reference(model, tokenizer, facts)
        reference = Reference(locality, easyedit, {name: kept for name, (kept, _) in begun.items()})
        readings = {name: reading for name, (_, reading) in begun.items()}
        return reference, *self._measured(model, tokenizer, facts, reference, readings, None)

    def measure(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[Fact],
        reference: Reference,
        rounds: Sequence[int] | None = None,
    ) -> tuple[Measured, dict[str, pd.DataFrame]]:
        """The facts on the model as it is now, and the instruments' tables. rounds: in which each was written, of the
        first ones, and only these are measured; None: nothing was written, and all are."""
        kept = reference.instruments
        readings = {name: one.read(model, tokenizer, facts, kept[name]) for name, one in self.instruments.items()}
        return self._measured(model, tokenizer, facts, reference, readings, rounds)

    def _measured(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[Fact],
        reference: Reference,
        readings: Mapping[str, Measurement],
        rounds: Sequence[int] | None,
    ) -> tuple[Measured, dict[str, pd.DataFrame]]:
        settings = self.metrics.get("perplexity", {})
        measured = measure(
            model,
            tokenizer,
            facts,
            [family for family in self.metrics if family in FAMILIES],
            rounds=rounds,
            reference=reference.locality,
            text=self.text,
            text_tokens=settings.get("tokens"),
            fluency_facts=self.metrics.get("fluency", {}).get("facts", FLUENCY_FACTS),
            answers_facts=self.metrics.get("answers", {}).get("facts"),
            probability_chat=self.probability_chat,
            generation=self.generation,
            chat=self.chat,
            seed=self.seed,
        )
        frame, overall = measured.facts, dict(measured.overall)
        frame.insert(0, "replaced", measured.replaced)
        tables: dict[str, pd.DataFrame] = {}
        for reading in readings.values():
            overall |= reading.overall
            tables |= reading.tables
        if EASYEDIT in self.metrics:
            from nse_plugin.baselines.metrics import easyedit_scores

            count = len(frame)
            own = easyedit_scores(reference.easyedit[:count], model, tokenizer, facts[:count])
            own.loc[measured.replaced] = math.nan
            overall |= {str(name): float(mean) for name, mean in own.mean().dropna().items()}
            frame = pd.concat([frame, own], axis="columns")
        return dataclasses.replace(
            measured,
            facts=_finite(frame),
            overall={str(name): value for name, value in _finite(pd.Series(overall)).items()},
        ), tables


def _finite(numbers: Table) -> Table:
    """Infinite numbers become NaN: a model that has diverged is measured, without such a number."""
    return numbers.replace([math.inf, -math.inf], math.nan)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: Pair | str) -> int:
    """How many tokens are read of a prompt, or of one with the target that follows it."""
    if isinstance(text, str):
        return len(without_end(tokenizer, text))
    before, after = split_target(tokenizer, *text)
    return len(before) + len(after) - 1


def measure_before(
    suite: MetricSuite, record: Record, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> None:
    """Measure the unedited model, and keep in its record what edited ones are compared with."""
    suite.generation.check(tokenizer)
    seconds: dict[str, float] = {}
    with timed(seconds, "measure"):
        reference, measured, tables = suite.begin(model, tokenizer, facts)
    reference.save(record)
    frame = pd.concat([facts_frame(facts), measured.facts], axis="columns")
    costs = {"seconds": seconds, "peak_memory_mib": peak_memory(suite.model.device)}
    record.save(Checkpoint(0, frame, written_texts(facts, measured), measured.overall, costs, tables), state=None)
    record.end(status="done", error=None, note=None, weights=ModelIdentity(model).full())


def facts_frame(facts: Sequence[Fact]) -> pd.DataFrame:
    """One row per fact: case_id (its place where it has none), prompt, target_true, target_new."""
    fields = {"case_id": "case_id", "prompt": "text", "target_true": "target_true", "target_new": "target_new"}
    frame = pd.DataFrame({name: [getattr(fact, field) for fact in facts] for name, field in fields.items()})
    return frame.assign(case_id=[number if value is None else value for number, value in enumerate(frame["case_id"])])


def written_texts(facts: Sequence[Fact], measured: Measured) -> pd.DataFrame:
    """What the model wrote: case_id, prompt, text."""
    names = facts_frame(facts)["case_id"]
    return measured.texts.assign(case_id=names.loc[measured.texts["fact"]].to_numpy())[["case_id", "prompt", "text"]]


def peak_memory(device: str) -> float:
    """MiB: of the process, or of the GPU's memory where the model is on one."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
