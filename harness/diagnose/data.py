"""Warning signs in the data: nothing to learn from, evaluation examples among the training rows."""

import math
from collections.abc import Sequence

import numpy as np

from harness.diagnose.answers import short
from harness.diagnose.curves import DEAD_AFTER, dead_from
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, Point, finding
from harness.records import Contamination, Estimate, Finding, SuiteResult
from harness.score_columns import values_of
from harness.stats import estimate

ZERO_LOSS = 1e-4
ZERO_SHARE = 0.2
LOW_QUANTILE = 0.1
DROPPED_SHARE = 0.01
MIN_EARLY = 5
LEAKED_SHARE = 0.01
SHOWN = 10
# The score that is shown with and without leaked examples: the first of these that a suite has.
SCORES = ("exact_match", "numeric_match", "accuracy", "json_f1", "pass_at_1", "all", "rouge_l", "chrf")


def no_supervised_tokens(evidence: Evidence) -> Finding:
    """A loss of zero from the start, or rows without anything to learn from."""
    name = "no_supervised_tokens"
    losses = evidence.finite_loss
    if not losses:
        return finding(name, "insufficient", "No training loss was logged.")
    early = losses[: max(MIN_EARLY, len(losses) // 5)]
    zeros = _without_gradient(evidence, [point for point in early if abs(point.value) < ZERO_LOSS])
    share = len(zeros) / len(early)
    measure = Measure(share, ZERO_SHARE, CONVENTION)
    if share > ZERO_SHARE:
        # Some losses are well above zero, and no gradient norm tells: easy answers of one token look the same.
        is_open = not _norms_at(evidence, zeros) and max(point.value for point in early) > DEAD_AFTER
        return finding(
            name, "fired", f"The training loss was 0.0 in {share:.0%} of the first {len(early)} logged steps{_gradients(evidence)}: nothing "
            "was learned in them.", "warning" if is_open else "error", advice=_zero_advice(evidence), measure=measure,
            evidence=[f"step {point.step}: loss {point.value:g}" for point in zeros[:SHOWN]],
        )  # fmt: skip
    if (later := _zeros_among_losses(evidence)) is not None:
        return later
    for split, summary in evidence.splits.items():
        lost = summary.dropped_unsupervised / max(summary.rows_read, 1)
        if lost > DROPPED_SHARE:
            limit = evidence.settings.get("training.max_length", "")
            return finding(
                name, "fired", f"{summary.dropped_unsupervised} of {summary.rows_read} {split} rows have no supervised token and were "
                "dropped.", "warning", measure=Measure(lost, DROPPED_SHARE, CONVENTION),
                advice=f"Raise training.max_length{f' (now {limit})' if limit else ''}, or shorten the prompts: an answer that is cut off "
                "whole can't be learned. Where rows are short, look at the loss mask with `harness template`.",
                evidence=[f"{split}: {reason} {count}" for reason, count in sorted(summary.dropped.items())],
            )  # fmt: skip
    count = sum(point.value == 0 for point in losses)
    message = (
        f"{count} of {len(losses)} logged losses are 0.0." if count else "Every logged step had supervised tokens."
    )
    return finding(name, "clear", message, measure=measure)


def _norms_at(evidence: Evidence, losses: Sequence[Point]) -> dict[int, float]:
    """Gradient norms of their steps, where they were logged."""
    wanted = {point.step for point in losses}
    return {point.step: point.value for point in evidence.grad_norm if point.step in wanted}


def _without_gradient(evidence: Evidence, losses: Sequence[Point]) -> list[Point]:
    """Those of the losses beside which no positive gradient norm says that something was learned."""
    norms = _norms_at(evidence, losses)
    return [point for point in losses if not norms.get(point.step, 0.0) > 0]


def _zeros_among_losses(evidence: Evidence) -> Finding | None:
    """Many losses of exactly 0.0 anywhere among losses none of which is near zero; easy rows have all losses in between."""
    losses = evidence.finite_loss
    zeros = [point for point in losses if point.value == 0]
    others = [point.value for point in losses if point.value != 0]
    share = len(zeros) / len(losses)
    if dead_from(losses) is not None:
        return None  # numbers that overflowed; see non_finite
    if share <= ZERO_SHARE or not others or float(np.quantile(others, LOW_QUANTILE)) <= DEAD_AFTER:
        return None
    norms = _norms_at(evidence, zeros).values()
    is_dead = sum(not norm > 0 for norm in norms) > len(norms) / 2
    return finding(
        "no_supervised_tokens", "fired", f"{len(zeros)} of {len(losses)} logged losses are 0.0, the others {float(np.median(others)):.2g} "
        "(median): those batches had nothing to learn from.", "error" if is_dead else "warning", advice=_zero_advice(evidence),
        measure=Measure(share, ZERO_SHARE, CONVENTION), evidence=[f"step {point.step}: loss 0" for point in zeros[:SHOWN]],
    )  # fmt: skip


def _gradients(evidence: Evidence) -> str:
    """What the gradient norm says of a loss of zero."""
    if not evidence.grad_norm:
        return ""
    if all(point.value == 0 for point in evidence.grad_norm):
        return ", and the gradient norm was 0.0 in all of them"
    return ""


def _zero_advice(evidence: Evidence) -> str:
    if any(math.isnan(point.value) for point in evidence.grad_norm):
        return (
            "The gradient norm is NaN: the loss overflowed, and logging_nan_inf_filter wrote 0.0 for it. Use bf16 instead of "
            "fp16, or lower the learning rate. If not, all labels are -100: check max_length and the loss mask."
        )
    return (
        "All labels may be -100: check max_length, the template's {% generation %} markers, the response template and "
        "assistant_only_loss. What else it could be: no trainable parameter, or rows that the model predicts perfectly already."
    )


def contamination(evidence: Evidence) -> Finding:
    """Examples that are asked and that the training rows hold, with the score that is left without them."""
    name = "contamination"
    if not evidence.contamination:
        return finding(name, "insufficient", "The training rows were not compared with the examples that are asked.")
    leaked = {suite: sorted({*found.exact, *found.near}) for suite, found in evidence.contamination.items()}
    share = max(len(ids) / max(evidence.contamination[s].num_examples, 1) for s, ids in leaked.items())
    measure = Measure(share, LEAKED_SHARE, CONVENTION)
    advice = (
        "Take these rows out of the training data, or these examples out of the evaluation: remove duplicates before you split, "
        "and split by cluster. What else it could be: short prompts that everybody asks, such as greetings."
    )
    over = [s for s, ids in leaked.items() if len(ids) > LEAKED_SHARE * evidence.contamination[s].num_examples]
    if over:
        return finding(
            name, "fired", " ".join(_sentence(s, leaked[s], evidence) for s in over), "error", advice=advice, measure=measure,
            evidence=[short(f"{s}/{example}") for s in over for example in leaked[s][:SHOWN]],
        )  # fmt: skip
    shared = {s: found for s, found in evidence.contamination.items() if _shared_share(found) > LEAKED_SHARE}
    numbers = ", ".join(f"{len(ids)} of {evidence.contamination[s].num_examples} in {s}" for s, ids in leaked.items())
    if shared:
        counts = ", ".join(f"{len(found.shared)} of {found.num_examples} in {s}" for s, found in shared.items())
        return finding(
            name, "fired", f"Reference answers share 13 words in a row with training answers ({counts}); their prompts are new "
            f"({numbers} are not).", "info", advice="Answers of one form share phrases by nature. Look at some of them: a long answer "
            "that is the same word for word is a leak.",
            measure=Measure(max(map(_shared_share, shared.values())), LEAKED_SHARE, "13-gram overlap as in GPT-3 and lm-eval; share: " + CONVENTION),
            evidence=[short(f"{s}/{example}") for s, found in shared.items() for example in found.shared[:SHOWN]],
        )  # fmt: skip
    return finding(name, "clear", f"Examples that occur in the training rows: {numbers}.", measure=measure)


def _shared_share(found: Contamination) -> float:
    return len(found.shared) / max(found.num_examples, 1)


def _sentence(suite: str, leaked: list[str], evidence: Evidence) -> str:
    found = evidence.contamination[suite]
    near = f" ({len(found.near)} of them nearly)" if found.near else ""
    message = f"{len(leaked)} of {found.num_examples} examples of {suite} occur in the training rows{near}"
    score = _clean_score(evidence.suites.get(suite), frozenset(leaked))
    return f"{message}; {score}." if score else f"{message}."


def _clean_score(result: SuiteResult | None, leaked: frozenset[str]) -> str:
    """The suite's score without the leaked examples, beside the one with them."""
    metric = next((name for name in SCORES if result is not None and name in result.metrics), None)
    if result is None or metric is None:
        return ""
    values = values_of(result, metric)
    clean = [value for example, value in values.items() if example not in leaked]
    if not clean:
        return f"no example is left for a clean {metric}"
    return f"clean {metric} {_shown(estimate(clean))} instead of {_shown(estimate(list(values.values())))}"


def _shown(value: Estimate) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
