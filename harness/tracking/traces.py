"""Answers that failed, as MLflow traces with their scores: few enough to be read; the tables hold all."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.gates import LOWER_IS_BETTER
from harness.records import Example, Generation, Score, SuiteResult
from harness.store import CellFolder, read_lines
from harness.tracking.connection import client

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo
    from mlflow.entities.span import Span

PREVIEW = 500
MAX_TEXT = 20_000
RUN_KEY, MODEL_KEY = "mlflow.sourceRun", "mlflow.modelId"


class FailingAnswer(NamedTuple):
    """One answer with the scores that it failed."""

    suite: str
    digest: str
    """Of the suite."""
    generation: Generation
    expected: str
    """Empty where it isn't known."""
    scores: tuple[Score, ...]
    slices: tuple[str, ...]


def failing_answers(
    folder: CellFolder, suites: Sequence[SuiteResult], criterion: str, limit: int
) -> list[FailingAnswer]:
    """The answers of a cell that failed, at most `limit`: those of the criterion's suite first, the worst of them first.

    An answer fails where a scorer names a failure, or where the criterion (in other suites: their first metric) scores it
    below 1.
    """
    ordered = sorted(suites, key=lambda suite: not criterion.startswith(f"{suite.suite}."))
    found: list[FailingAnswer] = []
    for suite in ordered:
        if len(found) < limit:
            found += _failing_of(folder, suite, criterion, limit - len(found))
    return found


def _failing_of(folder: CellFolder, suite: SuiteResult, criterion: str, limit: int) -> list[FailingAnswer]:
    by_example: dict[str, list[Score]] = {}
    for score in suite.scores:
        by_example.setdefault(score.example_id, []).append(score)
    metric = _deciding_metric(suite, criterion)
    worst = {
        example: severity
        for example, scores in by_example.items()
        if (severity := _severity(scores, metric)) is not None
    }
    chosen = sorted(worst, key=lambda example: worst[example])[:limit]
    path = folder.generations(suite.suite, suite.digest)
    if not chosen or not path.exists():
        return []
    answers: dict[str, Generation] = {}
    for given in read_lines(path, Generation):
        answers.setdefault(given.example_id, given)
    asked = folder.asked(suite.suite, suite.digest)
    expected = {row.id: row.reference for row in read_lines(asked, Example)} if asked.exists() else {}
    return [
        FailingAnswer(
            suite.suite, suite.digest, answers[example], expected.get(example, ""), tuple(by_example[example]),
            suite.slices.get(example, ()),
        )
        for example in chosen
        if example in answers and answers[example].is_answered
    ]  # fmt: skip


def _deciding_metric(suite: SuiteResult, criterion: str) -> str:
    """The criterion where it is the suite's (or its mean in one slice), else the first metric; losses tell of no failure."""
    metrics = [name for name in suite.metrics if name not in LOWER_IS_BETTER]
    prefix = f"{suite.suite}."
    asked = criterion.removeprefix(prefix) if criterion.startswith(prefix) else ""
    return next((name for name in metrics if asked == name or asked.startswith(f"{name}.")), next(iter(metrics), ""))


def _severity(scores: Sequence[Score], metric: str) -> float | None:
    """How far an answer is from passing, the worst lowest; None where it passed."""
    value = next((score.value for score in scores if score.metric == metric and score.value is not None), None)
    if value is not None and value < 1:
        return value
    return 1.0 if any(score.failure for score in scores) else None


def log_traces(run_id: str, experiment_id: str, model_id: str, answers: Sequence[FailingAnswer]) -> None:
    """Puts the traces of a run in place of those that it had.

    One call for each trace and one for all spans: 50 take a quarter of a second on SQLite.
    """
    from mlflow.tracing.client import TracingClient

    forget_traces(run_id, experiment_id)
    made = [_trace(run_id, experiment_id, model_id, answer) for answer in answers]
    # The tracing API of notebooks sends from a thread of its own, which may outlive a worker; these calls return when all is there.
    tracing = TracingClient()
    for info, _ in made:
        tracing.start_trace(info)
    if made:
        tracing.log_spans(experiment_id, [span for _, span in made])


def forget_traces(run_id: str, experiment_id: str) -> None:
    """Deletes the traces of a run."""
    store = client()
    known = store.search_traces(
        locations=[experiment_id], filter_string=f"metadata.`{RUN_KEY}` = '{run_id}'", max_results=500, include_spans=False
    )  # fmt: skip
    ids = [trace.info.trace_id for trace in known]
    for start in range(0, len(ids), 100):
        store.delete_traces(experiment_id, trace_ids=ids[start : start + 100])


def _trace(run_id: str, experiment_id: str, model_id: str, answer: FailingAnswer) -> "tuple[TraceInfo, Span]":
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.entities.span import Span

    given = answer.generation
    # The same answer of the same run is the same trace, however often it is logged.
    name = hashlib.sha256(f"{run_id}/{answer.suite}/{answer.digest}/{given.example_id}".encode()).hexdigest()
    trace_id, started = f"tr-{name[:32]}", time.time_ns()
    milliseconds = int(1000 * (given.seconds or 0))
    metadata = {RUN_KEY: run_id, "mlflow.trace_schema.version": "3"} | ({MODEL_KEY: model_id} if model_id else {})
    info = TraceInfo(
        trace_id=trace_id, trace_location=TraceLocation.from_experiment_id(experiment_id), request_time=started // 1_000_000,
        state=TraceState.OK, execution_duration=milliseconds, request_preview=given.prompt[:PREVIEW],
        response_preview=given.text[:PREVIEW], trace_metadata=metadata, tags=_tags(answer), assessments=list(_assessments(answer)),
    )  # fmt: skip
    attributes = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": "LLM",
        "mlflow.spanInputs": {"prompt": given.prompt[:MAX_TEXT]},
        "mlflow.spanOutputs": given.text[:MAX_TEXT],
        "stop_reason": given.stop_reason,
        "mlflow.chat.tokenUsage": {
            "input_tokens": given.prompt_tokens,
            "output_tokens": given.completion_tokens,
            "total_tokens": given.prompt_tokens + given.completion_tokens,
        },
    }
    content: dict[str, Any] = {
        "trace_id": _base64(name[:32]), "span_id": _base64(name[32:48]), "parent_span_id": None, "name": answer.suite,
        "start_time_unix_nano": started, "end_time_unix_nano": started + milliseconds * 1_000_000,
        "status": {"code": "STATUS_CODE_OK", "message": ""}, "events": [],
        "attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items()},
    }  # fmt: skip
    return info, Span.from_dict(content)


def _base64(digits: str) -> str:
    """MLflow takes 32 hex digits for base64 too, and would read another number from them."""
    return base64.b64encode(bytes.fromhex(digits)).decode()


def _tags(answer: FailingAnswer) -> Mapping[str, str]:
    tags = {
        "mlflow.traceName": answer.suite,
        "harness.suite": answer.suite,
        "harness.example": answer.generation.example_id,
        "harness.stop_reason": answer.generation.stop_reason,
        "harness.failures": ", ".join(dict.fromkeys(score.failure for score in answer.scores if score.failure)),
        "harness.slices": ", ".join(answer.slices),
    }
    return {key: value[:PREVIEW] for key, value in tags.items() if value}


def _assessments(answer: FailingAnswer) -> Iterator[Any]:
    """The scores as feedback, and what was expected."""
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    source = AssessmentSource("CODE", "harness")
    for score in answer.scores:
        if score.value is not None:
            yield Feedback(
                name=f"{answer.suite}.{score.metric}", value=score.value, source=source, rationale=score.failure or None
            )
    if answer.expected:
        yield Expectation(name="expected", value=answer.expected[:MAX_TEXT], source=source)
