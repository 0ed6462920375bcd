"""Warning signs in data and outputs: nothing supervised, memorized rows, inconsistent format."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

from harness.diagnose.evidence import CONVENTION, Evidence, Measure, as_float, finding, probe_mean
from harness.records import Finding, Probe, SuiteResult
from harness.stats import estimate

ZERO_LOSS = 1e-4
ZERO_SHARE = 0.2
DROPPED_SHARE = 0.01
SUSPECT_NLL = 0.2
LIKELY_AUC = 0.6
ADHERENCE_FLOOR = 0.95
SPREAD = 0.05
MIN_SLICE = 20
MIN_PROBES = 20


def no_supervised_tokens(evidence: Evidence) -> Finding:
    """A loss of zero from the start, or rows without anything to learn from."""
    name = "no_supervised_tokens"
    advice = (
        "All labels may be -100: check max_length, the template's {% generation %} markers and assistant_only_loss."
    )
    losses = [point.value for point in evidence.finite_loss]
    if not losses:
        return finding(name, "insufficient", "No training loss was logged.")
    early = losses[: max(5, len(losses) // 5)]
    share = sum(abs(value) < ZERO_LOSS for value in early) / len(early)
    if share > ZERO_SHARE:
        return finding(
            name, "fired", f"The training loss was 0.0 in {share:.0%} of the first {len(early)} logged steps: nothing was learned.",
            "error", advice=advice, measure=Measure(share, ZERO_SHARE, "methods"),
        )  # fmt: skip
    for split, summary in evidence.splits.items():
        lost = summary.dropped_unsupervised / summary.rows_read
        if lost > DROPPED_SHARE:
            return finding(
                name, "fired", f"{summary.dropped_unsupervised} of {summary.rows_read} {split} rows have no supervised token and were dropped.",
                "warning", advice=advice, measure=Measure(lost, DROPPED_SHARE, "methods"),
            )  # fmt: skip
    return finding(name, "clear", "Every logged step had supervised tokens.", measure=Measure(share, ZERO_SHARE))


def saved_model(evidence: Evidence) -> Finding:
    """Whether the checkpoint on disk is what was trained, stops by itself, and its adapter does something."""
    name = "saved_model"
    if evidence.verification is None:
        return finding(name, "insufficient", "The saved checkpoint was not loaded again.")
    failures = evidence.verification.failures
    if failures:
        return finding(
            name, "fired", " ".join(item.message for item in failures), "error",
            advice="What is on disk is not what was measured in training: don't ship it; look at the versions of peft and "
            "transformers, at modules_to_save, and at added tokens.",
            evidence=[item.name for item in failures],
        )  # fmt: skip
    return finding(name, "clear", " ".join(item.message for item in evidence.verification.items))


def memorization(evidence: Evidence) -> Finding:
    """Low loss on training rows, told apart from held-out ones, and word-for-word reproduction: two signs together."""
    name = "memorization"
    if not evidence.train_probe or not evidence.validation or not evidence.extraction:
        return finding(
            name, "insufficient", "Needs the loss of single training and validation rows, which this run didn't record."
        )
    if len(evidence.train_probe[-1].nll) < MIN_PROBES:
        return finding(
            name,
            "insufficient",
            f"Only {len(evidence.train_probe[-1].nll)} training rows were probed; {MIN_PROBES} are needed.",
        )
    train_nll, validation_nll = probe_mean(evidence.train_probe[-1]), probe_mean(evidence.validation[-1])
    auc, auc_low, auc_high = _membership_auc(evidence)
    rates = {
        split: [float(i.is_verbatim) for i in evidence.extraction if i.split == split]
        for split in ("train_probe", "validation")
    }
    if min(len(values) for values in rates.values()) < MIN_PROBES:
        return finding(name, "insufficient", "Too few answers are long enough to be cut in half.")
    train_rate, validation_rate = (estimate(values) for values in rates.values())
    gap_low = _difference_low(rates["train_probe"], rates["validation"])
    numbers = (
        f"NLL {train_nll:.3g} on training and {validation_nll:.3g} on validation rows; training rows are told from validation "
        f"rows with AUC {auc:.2f} [{auc_low:.2f}, {auc_high:.2f}]; {train_rate.value:.0%} of training answers are completed word "
        f"for word, {validation_rate.value:.0%} of validation answers"
    )
    measure = Measure(auc, LIKELY_AUC, f"membership AUC against the base's loss, {CONVENTION}; Carlini et al. 2023")
    if train_nll >= SUSPECT_NLL or auc_low <= LIKELY_AUC:
        return finding(
            name, "clear", f"{numbers}: no sign that training rows are treated differently.", measure=measure
        )
    advice = "Train fewer epochs (1 to 3), add or deduplicate rows, lower the adapter's r or the learning rate."
    shown = [f"{i.prefix} ... {i.expected}" for i in evidence.extraction if i.split == "train_probe" and i.is_verbatim][
        :5
    ]
    if gap_low > 0:
        return finding(name, "fired", f"{numbers}.", "error", advice=advice, evidence=shown, measure=measure)
    return finding(
        name,
        "fired",
        f"{numbers}; the word-for-word gap is within the noise.",
        "warning",
        advice=advice,
        evidence=shown,
        measure=measure,
    )


def _membership_auc(evidence: Evidence) -> tuple[float, float, float]:
    """How well the fall of a row's NLL since step 0 tells training rows from validation rows, with its 95 % interval.

    The fall is relative to where the row started: short rows start higher and would otherwise dominate. The interval
    is Hanley and McNeil's (1982).
    """
    from sklearn.metrics import roc_auc_score

    train = _relative_falls(evidence.train_probe)
    held_out = _relative_falls(evidence.validation)
    auc = float(roc_auc_score([1] * len(train) + [0] * len(held_out), np.nan_to_num(np.array(train + held_out))))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    pairs = len(train) * len(held_out)
    variance = auc * (1 - auc) + (len(train) - 1) * (q1 - auc**2) + (len(held_out) - 1) * (q2 - auc**2)
    margin = 1.96 * float(np.sqrt(max(variance / pairs, 0.0)))
    return auc, auc - margin, min(1.0, auc + margin)


def _relative_falls(probes: Sequence[Probe]) -> list[float]:
    """Share of its first NLL that every row has lost."""
    first, last = probes[0], probes[-1]
    pairs = [(as_float(before), as_float(after)) for before, after in zip(first.nll, last.nll, strict=True)]
    return [(before - after) / before if before else 0.0 for before, after in pairs]


def _difference_low(a: list[float], b: list[float]) -> float:
    """Lower 95 % bound of the difference of two independent rates (Newcombe 1998, method 10)."""
    first, second = estimate(a), estimate(b)
    spread = np.sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    return float(first.value - second.value - spread)


def format_inconsistency(evidence: Evidence) -> Finding:
    """Template adherence surely below the floor, or far apart between kinds of prompts."""
    name = "format_inconsistency"
    suite = evidence.suites.get("template_adherence")
    if suite is None or "all" not in suite.metrics:
        return finding(name, "insufficient", "The suite template_adherence was not run.")
    adherence = suite.metrics["all"]
    failures = Counter(score.failure for score in suite.scores if score.failure)
    worst = ", ".join(f"{failure} {count}" for failure, count in failures.most_common(3))
    numbers = f"{adherence.value:.1%} [{adherence.low:.1%}, {adherence.high:.1%}] of {adherence.n} generations keep to the template"
    measure = Measure(adherence.value, ADHERENCE_FLOOR, CONVENTION)
    if adherence.high < ADHERENCE_FLOOR:
        return finding(
            name, "fired", f"{numbers} ({worst}).", "error", advice=_remedy(failures),
            evidence=[f"{s.example_id}: {s.failure}" for s in suite.scores if s.failure][:10], measure=measure,
        )  # fmt: skip
    spread = _spread(suite)
    if spread:
        return finding(
            name, "fired", f"{numbers}, but {spread} ({worst}).", "warning", advice=_remedy(failures), measure=measure
        )
    if adherence.low >= ADHERENCE_FLOOR:
        return finding(name, "clear", f"{numbers}.", measure=measure)
    return finding(
        name, "insufficient", f"{numbers}: too few to tell whether it is above {ADHERENCE_FLOOR:.0%}.", measure=measure
    )


def _remedy(failures: Counter[str]) -> str:
    most = failures.most_common(1)[0][0] if failures else ""
    if most in ("runs_on", "wrong_end_token"):
        return "The model doesn't end its turn: check that the end-of-turn token is inside the loss mask (it is not where pad equals eos, or where it stands outside {% generation %})."
    if most.startswith("json"):
        return "Add rows with this schema, or raise max_new_tokens if the JSON is cut off."
    if most.startswith(("tool", "prose_around")):
        return "Add rows with tool calls, and render the tools in training as in inference."
    return "Train longer or with more rows of the failing kind; look at the generations table."


def _spread(suite: SuiteResult) -> str:
    """Names the slice that is surely and clearly worse than the rest (Fisher's exact test, Bonferroni over slices)."""
    values = {
        score.example_id: score.value for score in suite.scores if score.metric == "all" and score.value is not None
    }
    names = sorted({name for example in values for name in suite.slices.get(example, ())})
    for name in names:
        inside = [value for example, value in values.items() if name in suite.slices.get(example, ())]
        outside = [value for example, value in values.items() if name not in suite.slices.get(example, ())]
        if min(len(inside), len(outside)) < MIN_SLICE:
            continue
        gap = float(np.mean(outside) - np.mean(inside))
        table = np.array([[sum(inside), len(inside) - sum(inside)], [sum(outside), len(outside) - sum(outside)]])
        p_value = float(stats.fisher_exact(table, alternative="less").pvalue)
        if gap > SPREAD and p_value * len(names) < 0.05:
            return f"only {np.mean(inside):.1%} of the {len(inside)} prompts of kind {name} (others {np.mean(outside):.1%})"
    return ""
