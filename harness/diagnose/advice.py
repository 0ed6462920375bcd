"""How a check that had too little to go on gets what it needs next time."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from harness.diagnose.evidence import Evidence
from harness.records import Finding

ENOUGH_LOSSES = 50
ENOUGH_EVALUATIONS = 4
NUM_EVALUATIONS = 10


class Need(NamedTuple):
    """Something that a check reads."""

    is_missing: Callable[[Evidence], bool]
    how: Callable[[Evidence], str]
    """One sentence: what to set, so that it is there next time."""


def _last_step(evidence: Evidence) -> int:
    points = (*evidence.loss[-1:], *evidence.eval_loss[-1:])
    return max((point.step for point in points), default=0)


def _log_every_step(evidence: Evidence) -> str:
    if evidence.loss and _last_step(evidence) < 2 * len(evidence.loss):
        return f"Train longer: {len(evidence.loss)} steps were logged, which is all there were."
    return "Log the loss at every step: `logging_steps: 1` (and `logging_strategy: steps`)."


def _evaluate_often(evidence: Evidence) -> str:
    every = (evidence.planned_steps or _last_step(evidence)) // NUM_EVALUATIONS
    steps = f"`eval_steps: {every}`" if every > 0 else "`eval_steps` a tenth of all steps"
    return f"Keep rows for validation and evaluate on them: `eval_strategy: steps`, {steps}, `eval_on_start: true`."


def _keep_non_finite(evidence: Evidence) -> str:
    return "Keep NaN in the log: `logging_nan_inf_filter: False`; by default transformers hides it behind the last finite loss."


def _log_gradient(evidence: Evidence) -> str:
    return "Log the gradient norm: transformers does so where `max_grad_norm` is above 0."


def _log_rate(evidence: Evidence) -> str:
    return "Keep `learning_rate` in the log, as transformers' Trainer writes it beside the loss."


def _log_epochs(evidence: Evidence) -> str:
    return "Keep `epoch` in the log beside the step."


def _train_as_cell(evidence: Evidence) -> str:
    return (
        "Train it as a cell (`harness run FILE`): it measures every row of a part of the training set and of the validation set, "
        "the untouched base first."
    )


def _load_again(evidence: Evidence) -> str:
    return "Train it as a cell (`harness run FILE`): its checkpoint is loaded again and compared with what was trained."


def _sweep_rate(evidence: Evidence) -> str:
    return "Train it at several rates: `grid: {training.learning_rate: [...]}` in an experiment of `harness run`."


def _judge_answers(suite: str) -> Callable[[Evidence], str]:
    return lambda _: (
        f"Evaluate its answers: list `{suite}` under `evals` of `harness run`, or score what it answered with "
        "`harness score PREDICTIONS.jsonl`."
    )


def _compare_with_base(evidence: Evidence) -> str:
    return "Evaluate the untouched base too: `references: [base]`, with the suite `retention` under `evals` of `harness run`."


def _look_for_leaks(evidence: Evidence) -> str:
    return "Look for test rows among the training rows: `harness data TRAIN.jsonl --against TEST.jsonl`, or a `harness run`."


def _keep_the_log(evidence: Evidence) -> str:
    return "Give the output folder or a log that is written as training goes on (`trainer_log.jsonl`, an MLflow run), not a copy."


LOSSES = Need(lambda e: len(e.finite_loss) < ENOUGH_LOSSES, _log_every_step)
EVALUATIONS = Need(lambda e: len(e.eval_loss) < ENOUGH_EVALUATIONS, _evaluate_often)
GRADIENT = Need(lambda e: not e.grad_norm, _log_gradient)
RATE = Need(lambda e: not e.learning_rate, _log_rate)
EPOCHS = Need(lambda e: len(e.epochs) < 2, _log_epochs)
PROBES = Need(lambda e: len(e.validation) < 2 or len(e.train_probe) < 2, _train_as_cell)
SIBLINGS = Need(lambda e: not e.siblings, _sweep_rate)
NAN_KEPT = Need(lambda e: not e.loss and not e.eval_loss, _keep_non_finite)
ANSWERS = Need(lambda e: not e.generations, _judge_answers("held_out"))
TEMPLATE = Need(
    lambda e: not any(s.is_kind("template_adherence") for s in e.suites.values()), _judge_answers("template_adherence")
)
BASE = Need(lambda e: not e.base, _compare_with_base)
CELL = Need(lambda e: e.verification is None, _load_again)
SPLITS = Need(lambda e: not e.splits, _train_as_cell)
OVERLAP = Need(lambda e: not e.contamination, _look_for_leaks)
END = Need(lambda e: e.is_finished is None, _keep_the_log)

NEEDS: Mapping[str, tuple[Need, ...]] = {
    "non_finite": (LOSSES, NAN_KEPT),
    "no_supervised_tokens": (LOSSES, SPLITS),
    "noop_adapter": (CELL,),
    "saved_model": (CELL,),
    "loss_spike": (LOSSES,),
    "gradient_explosion": (GRADIENT, LOSSES),
    "diverged": (LOSSES, EVALUATIONS),
    "learning_rate_too_high": (SIBLINGS, LOSSES, RATE),
    "learning_rate_too_low": (SIBLINGS, LOSSES, RATE),
    "underfitting": (LOSSES, EVALUATIONS),
    "overfitting": (EVALUATIONS, LOSSES),
    "slow_validation": (EVALUATIONS, LOSSES),
    "gap_growth": (PROBES, EVALUATIONS),
    "memorization": (PROBES, EPOCHS, LOSSES),
    "format_inconsistency": (TEMPLATE,),
    "repetition": (ANSWERS,),
    "low_diversity": (ANSWERS,),
    "forgetting": (BASE,),
    "contamination": (OVERLAP,),
    "loss_phases": (LOSSES,),
    "still_improving": (LOSSES,),
    "stalled": (END,),
    "too_short": (LOSSES,),
    "scale_mismatch": (EVALUATIONS, LOSSES),
}

UNTRAINED: Mapping[str, str] = {
    "format_inconsistency": "Ask it again with the form spelled out in the prompt and shown by examples, in its own chat template, stopped "
    "at its own end-of-turn token, with new tokens enough for a whole answer. What else it could be: answers that were saved with their "
    "prompt, their control tokens or what follows them.",
    "repetition": "Ask it again, stopped at its own end-of-turn token, with a limit of new tokens near the answers' length. What else it "
    "could be: greedy decoding, which loops more than sampling.",
    "low_diversity": "Look whether it was asked with the whole prompt, and whether every answer lies at the id of its own example. What "
    "else it could be: references that vary where the prompt gives no reason to.",
}  # fmt: skip
"""What can be done about answers of a model that nobody trains here."""


def as_untrained(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings with advice for a model that nobody trains here, such as an untouched base or another system."""
    return tuple(
        f.model_copy(update={"advice": f"Nothing was trained here. {UNTRAINED[f.check]}"})
        if f.outcome == "fired" and f.check in UNTRAINED
        else f
        for f in findings
    )


def how_to_know(finding: Finding, evidence: Evidence) -> str:
    """What to log or run next time, so that the check can tell; empty where nothing that it reads is missing."""
    return " ".join(_sentences(finding, evidence))


def with_advice(findings: Sequence[Finding], evidence: Evidence) -> tuple[Finding, ...]:
    """The findings; those that lack evidence say how to get it, unless they said so themselves."""
    return tuple(
        f.model_copy(update={"advice": how_to_know(f, evidence)}) if f.outcome == "insufficient" and not f.advice else f
        for f in findings
    )


def what_would_tell_more(findings: Sequence[Finding], evidence: Evidence) -> list[str]:
    """The same for a reader: every piece of advice once, with the checks that it serves."""
    served: dict[str, list[str]] = {}
    for finding in findings:
        if finding.outcome == "insufficient":
            known = _sentences(finding, evidence)
            for sentence in known if finding.advice in ("", " ".join(known)) else [finding.advice]:
                served.setdefault(sentence, []).append(finding.check)
    return [f"{sentence} ({', '.join(checks)})" for sentence, checks in served.items()]


def _sentences(finding: Finding, evidence: Evidence) -> list[str]:
    missing = (need.how(evidence) for need in NEEDS.get(finding.check, ()) if need.is_missing(evidence))
    return list(dict.fromkeys(missing))
