"""Whether answers go round in circles."""

from harness.diagnose.answers import ID, MIN_ANSWERS, Answer, answers_of, base_answers, short, this_run
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.records import Finding
from harness.scoring.repetition import repetition_failure
from harness.stats import wilson

REPETITION_SHARE = 0.02
SHOWN = 10
GOPHER = "Gopher's limits on one text (Rae et al. 2021, as in datatrove); share of the answers: " + CONVENTION


def repetition(evidence: Evidence) -> Finding:
    """Answers that go round in circles, more often than the base's and where the right answer doesn't."""
    name = "repetition"
    answers = answers_of(evidence)
    if len(answers) < MIN_ANSWERS:
        return finding(name, "insufficient", f"{len(answers)} answers are known; {MIN_ANSWERS} are needed.")
    failures = [(answer, _repetition(answer)) for answer in answers]
    bad = [(answer, failure) for answer, failure in failures if failure]
    # A base that never ends its turns fills them with anything: it is no yardstick for a model that should.
    ended = [a for a in base_answers(evidence) if a.generation.stop_reason in ("end_of_turn", "unknown")]
    base_share = sum(bool(_repetition(a)) for a in ended) / len(ended) if len(ended) >= MIN_ANSWERS else 0.0
    low, high = wilson(len(bad), len(answers))
    limit = max(REPETITION_SHARE, base_share)
    measure = Measure(len(bad) / len(answers), limit, GOPHER)
    message = f"{len(bad)} of {len(answers)} answers ({len(bad) / len(answers):.1%} [{low:.1%}, {high:.1%}]) repeat themselves"
    if base_share:
        message += f", {base_share:.1%} of the base's"
    if low <= limit:
        return finding(name, "clear", f"{message}.", measure=measure)
    return finding(
        name, "fired", f"{message}, where the reference doesn't.", "warning", measure=measure,
        advice="Train fewer epochs, look for training answers that go round in circles (`harness data` scores them), and check that "
        f"the end-of-turn token is inside the loss mask.{this_run(evidence)} What else it could be: greedy decoding, which loops more "
        "than sampling, or a limit of new tokens far above the answers' length.",
        evidence=[f"{short(answer.id, ID)}: {failure}: {short(answer.text)}" for answer, failure in bad[:SHOWN]],
    )  # fmt: skip


def _repetition(answer: Answer) -> str:
    """How an answer repeats itself; "" where it doesn't, or where the right one does, too."""
    failure = repetition_failure(answer.text)
    return failure if failure and not (answer.reference and repetition_failure(answer.reference)) else ""
