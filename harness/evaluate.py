"""Runs suites and probes on whoever answers: the same ruler for every cell, the base and every reference."""

import dataclasses
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence

from harness.errors import EvalError, boundary
from harness.eval_config import EvalConfig
from harness.models.respondent import OpenModel, Respondent, Sampling
from harness.records import Estimate, Example, Generation, Score, SuiteResult
from harness.resources import digest
from harness.scoring.expected import as_stated, as_written
from harness.scoring.measurement import Measurement, Scorer, ToolCall
from harness.scoring.table import CHOICE_SCORERS, NLL_SCORERS
from harness.scoring.thinking import opened_by
from harness.stats import estimate
from harness.store import CellFolder, write_lines
from harness.suite import Chosen, Suite, chosen_scorers, suite_digest

logger = logging.getLogger(__name__)

# What MLflow takes in a metric's name and a gate can name.
UNSAFE = re.compile(r"[^\w\-.]")
MAX_SLICE_NAME = 80


def evaluate(
    suite: Suite, options: EvalConfig, examples: Sequence[Example], respondent: Respondent, folder: CellFolder
) -> SuiteResult:
    """Asks every example, scores every generation, keeps both."""
    started = time.monotonic()
    chosen = chosen_scorers(suite, options)
    sampling = Sampling(
        options.max_new_tokens, options.num_samples, options.temperature, options.top_p, options.sampling_seed
    )
    answers = respondent.generations(examples, as_text=suite.ask == "text", sampling=sampling)
    key = suite_digest(suite, options, examples)
    write_lines(folder.generations(options.label, key), [generation for samples in answers for generation in samples])
    measured = _measured(suite, chosen, examples, answers, respondent)
    scores = _scores(chosen, measured)
    seconds = time.monotonic() - started
    logger.info("%s: %d examples in %.1f s", options.label, len(examples), seconds)
    slices = {example.id: tuple(_slice_name(name) for name in example.slices) for example in examples}
    clusters = {example.id: example.cluster or example.id for example in examples}
    return SuiteResult(
        suite=options.label,
        kind=suite.name,
        version=suite.version,
        digest=key,
        metrics=_metrics(chosen.names, scores, clusters),
        slice_metrics=_slice_metrics(chosen.names, scores, slices, clusters),
        scores=tuple(scores),
        clusters=clusters,
        slices=slices,
        seconds=seconds,
    )


def _slice_name(name: str) -> str:
    """The name as metrics and gates spell it; a long one is cut and keeps apart from others by a digest."""
    safe = UNSAFE.sub("_", name)
    return safe if len(safe) <= MAX_SLICE_NAME else f"{safe[:MAX_SLICE_NAME]}-{digest(name)}"


def _measured(
    suite: Suite, chosen: Chosen, examples: Sequence[Example], answers: Sequence[tuple[Generation, ...]], asked: Respondent
) -> list[Measurement]:  # fmt: skip
    """Every example with all that scorers may look at; answer and reference are compared as they follow the prompt."""
    as_text = suite.ask == "text"
    model = asked if isinstance(asked, OpenModel) else None
    written = model.written_references(examples, as_text=as_text) if model else {}
    losses = model.reference_losses(examples, as_text=as_text) if model and chosen.needs_nll else {}
    choices = model.choice_logprobs(examples, as_text=as_text) if model and chosen.needs_choices else {}
    measured = []
    for example, samples in zip(examples, answers, strict=True):
        text = written.get(example.id)
        prompt = samples[0].prompt
        compared = as_written(example, opened_by(prompt) + text, prompt) if text is not None else as_stated(example)
        loss = losses.get(example.id)
        opened = tuple(_opened(sample) for sample in samples)
        measured.append(
            Measurement(
                example=compared,
                generation=opened[0],
                nll=loss.nll if loss is not None and math.isfinite(loss.nll) else None,
                reference_bytes=len(compared.reference.encode(errors="replace")),
                reference_tokens=loss.num_tokens if loss is not None else 0,
                special_tokens=tuple(token for token in asked.control_tokens if token not in compared.reference),
                samples=opened,
                choice_logprobs=choices.get(example.id, ()),
                prompt_differs=text is None if example.id in written else None,
                parsed_calls=_parsed_calls(model, example, samples[0]),
            )
        )
    return measured


def _parsed_calls(model: OpenModel | None, example: Example, answer: Generation) -> tuple[ToolCall, ...] | None:
    has_tools = example.expect.tools or example.inputs.tools
    return model.parsed_calls(example, answer) if model is not None and has_tools else None


def _scores(chosen: Chosen, measured: Sequence[Measurement]) -> list[Score]:
    scores: list[Score] = []
    for item in measured:
        for name, scorer in (*chosen.each.items(), *chosen.samples.items()):
            # Asked even of no answer: only the scorer knows whether its metric applies to the example.
            with boundary(EvalError, f"the scorer {name} failed on example {item.example.id}"):
                score = scorer(item) if name in chosen.samples else _mean_score(scorer, item)
            if score is None:
                continue
            if (
                not item.generation.is_answered
                and name not in (*NLL_SCORERS, *CHOICE_SCORERS)
                and not _rests_on_choices(scorer, item)
            ):
                score = score.model_copy(update={"value": None, "failure": item.generation.stop_reason})
            scores.append(score.model_copy(update={"metric": name}))
    answered = [item for item in measured if item.generation.is_answered]
    for name, group_scorer in chosen.groups.items():
        with boundary(EvalError, f"the scorer {name} failed"):
            scores.extend(score.model_copy(update={"metric": name}) for score in group_scorer(answered))
    return scores


def _rests_on_choices(scorer: Scorer, item: Measurement) -> bool:
    """Whether a verdict comes from the choices' log-probabilities, which need no room for an answer."""
    if not item.choice_logprobs:
        return False
    blind = scorer(dataclasses.replace(item, choice_logprobs=()))
    return blind is None or blind.value is None


def _mean_score(scorer: Scorer, item: Measurement) -> Score | None:
    """The mean over the samples of a prompt: they are replicates of one example, not examples."""
    if len(item.samples) == 1:
        return scorer(item)
    each = [scorer(dataclasses.replace(item, generation=sample)) for sample in item.samples]
    given = [score for score in each if score is not None]
    if not given:
        return None
    values = [score.value for score in given if score.value is not None]
    failure = next((score.failure for score in given if score.failure), "")
    return given[0].model_copy(update={"value": sum(values) / len(values) if values else None, "failure": failure})


def _metrics(names: Sequence[str], scores: Sequence[Score], clusters: Mapping[str, str]) -> dict[str, Estimate]:
    """An estimate of every metric that was scored at all."""
    metrics = {}
    for name in names:
        given = [score for score in scores if score.metric == name]
        values = [score.value for score in given if score.value is not None]
        if values:
            alike = [clusters[score.example_id] for score in given if score.value is not None]
            metrics[name] = estimate(values, len(given) - len(values), alike)
    return metrics


def _slice_metrics(
    names: Sequence[str], scores: Sequence[Score], slices: Mapping[str, tuple[str, ...]], clusters: Mapping[str, str]
) -> dict[str, Estimate]:
    """The same for the examples of every slice, as `metric.slice`."""
    found: dict[str, Estimate] = {}
    for kind in sorted({kind for kinds in slices.values() for kind in kinds}):
        inside = _metrics(names, [score for score in scores if kind in slices[score.example_id]], clusters)
        found |= {f"{name}.{kind}": value for name, value in inside.items()}
    return found


def _opened(generation: Generation) -> Generation:
    """The thinking block that a prompt itself opens belongs to the answer."""
    opening = opened_by(generation.prompt)
    return generation.model_copy(update={"text": opening + generation.text}) if opening else generation
