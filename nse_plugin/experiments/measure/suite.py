"""Metrics of an experiment: measure the unedited model once, then every edited model with the same families."""

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
    """The metrics of an experiment. metrics: settings by family. seed: for the texts that the model generates. model:
    where the unedited model is loaded from."""

    metrics: Mapping[str, Mapping[str, Any]]
    seed: int
    model: ModelChoice

    @cached_property
    def instruments(self) -> dict[str, ModelMetric]:
        """The instruments by name. Raises what `nse_plugin.experiments.measure.instruments.instruments` raises."""
        return instruments(self.metrics, self.model)

    @cached_property
    def text(self) -> str:
        """The held-out text on which perplexity is measured. Raises PlanError if it cannot be read."""
        return held_out_text("metrics.perplexity.text", self.metrics.get("perplexity", {}).get("text"))

    @property
    def generation(self) -> Generation:
        """Settings of free generation. Raises PlanError for an unknown setting."""
        settings = dict(self.metrics.get("generation", {}))
        if settings.get("judge"):
            settings["judge"] = made(Judge, "metrics.generation.judge", settings["judge"])
        return made(Generation, "metrics.generation", settings)

    @property
    def chat(self) -> Chat:
        """Settings of the questions asked in a chat. Raises PlanError for an unknown setting."""
        return made(Chat, "metrics.chat", dict(self.metrics.get("chat", {})))

    def check(self, facts: Sequence[Fact]) -> None:
        """Raise PlanError, QuestionError, TaskError or JudgeError if a metric cannot be measured as configured. The
        model is not read."""
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
        """Whether `probability` asks its prompts in a chat, as in `NSEHyperParams.chat`. Raises PlanError for an
        unknown setting."""
        settings = self.metrics.get("probability", {})
        known("metrics.probability", settings, ["chat"])
        chat: bool | str = settings.get("chat", False)
        return chat

    @cached_property
    def frames(self) -> dict[str, list[Frame]]:
        """Frames around the prompts, by family, for the families that ask in a chat. Reads the model's tokenizer, not
        its weights. Raises PlanError if the tokenizer does not have the chat template."""
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
        """Raise PlanError if a prompt does not fit into the model's positions, or as `frames` does. Reads the model's
        configuration and tokenizer, not its weights."""
        _ = self.frames
        positions = max_positions(model_config(self.model.source))
        if positions is None:
            return
        asked = dict.fromkeys(row for fact in facts for row in self._asked(fact))
        asked |= dict.fromkeys((prompt, 0) for one in self.instruments.values() for prompt in one.prompts(facts))
        # A token is at least one byte, and hardly any tokenizer lengthens a text: short texts need not be tokenized.
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
        """Yield each prompt, alone or with its target, and the number of tokens the model may generate after it."""
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
        """Measure the unedited model. Returns the reference for edited models, and what `measure` returns."""
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
        """Measure the facts on the model in its current state. Returns the measurements and the instruments' tables.

        rounds: the round in which each of the first len(rounds) facts was written; only these facts are measured. None
        if nothing has been written: all facts are measured.
        """
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
    """Replace infinite numbers by NaN, so that a model that has diverged can still be measured."""
    return numbers.replace([math.inf, -math.inf], math.nan)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: Pair | str) -> int:
    """Return how many tokens the model reads of a prompt, or of a prompt followed by its target."""
    if isinstance(text, str):
        return len(without_end(tokenizer, text))
    before, after = split_target(tokenizer, *text)
    return len(before) + len(after) - 1


def measure_before(
    suite: MetricSuite, record: Record, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> None:
    """Measure the unedited model, and save the measurements and the reference for edited models in its record."""
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
    """One row per fact: case_id (its index if it has none), prompt, target_true, target_new."""
    fields = {"case_id": "case_id", "prompt": "text", "target_true": "target_true", "target_new": "target_new"}
    frame = pd.DataFrame({name: [getattr(fact, field) for fact in facts] for name, field in fields.items()})
    return frame.assign(case_id=[number if value is None else value for number, value in enumerate(frame["case_id"])])


def written_texts(facts: Sequence[Fact], measured: Measured) -> pd.DataFrame:
    """Return the generated texts as a frame with the columns case_id, prompt, text."""
    names = facts_frame(facts)["case_id"]
    return measured.texts.assign(case_id=names.loc[measured.texts["fact"]].to_numpy())[["case_id", "prompt", "text"]]


def peak_memory(device: str) -> float:
    """Return the peak memory in MiB: GPU memory if the model is on a GPU, else that of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
