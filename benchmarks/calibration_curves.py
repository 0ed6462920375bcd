"""Holds the checks against curves of real public runs that were labelled by eye.

`python benchmarks/calibration_curves.py [FOLDER] [--json]`, where FOLDER holds `labels.tsv` (file, label, why) and the
curves. Prints a confusion table, the agreement, every alarm on a healthy run, and how far healthy runs stay from each
threshold. Exit status 1 below 90 % agreement or with an error on a healthy run.
"""

import argparse
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.diagnose.cell import diagnose
from harness.diagnose.readers import file_evidence
from harness.records import Finding

FOLDER = Path(os.environ.get("HARNESS_REAL_DATA", "../shared/data")) / "curves"
NEEDED = 0.9

# Main label -> class. A curve does not tell apart a run that is still improving and one that has come to rest by a
# warning, nor memorization in steps from memorization in one long fall: those are one class each.
CLASSES: Mapping[str, str] = {
    "healthy": "healthy", "healthy_plateau": "healthy", "dead_zero_loss": "dead_zero_loss", "nan_eval": "nan_eval",
    "diverged": "diverged", "unstable": "unstable", "overfit": "overfit", "overfit_mild": "overfit_mild",
    "overfit_gap": "overfit_gap", "memorized": "memorized", "memorized_eval_too": "memorized", "staircase": "memorized",
    "underfit_flat": "underfit_flat", "too_short": "too_short",
}  # fmt: skip

# Label behind a plus -> the check that must fire for it. None: nothing on a curve can tell.
EXTRAS: Mapping[str, str | None] = {
    "spike": "loss_spike", "nonfinite_grad": "non_finite", "scale_mismatch": "scale_mismatch", "too_short": "too_short",
    "format_zero": None,
}  # fmt: skip

# Class -> warnings that say the same thing in other words, or name its cause or its consequence.
SAME_STORY: Mapping[str, frozenset[str]] = {
    "healthy": frozenset(),
    "dead_zero_loss": frozenset({"no_supervised_tokens", "underfitting"}),
    "nan_eval": frozenset({"non_finite", "too_short"}),
    "diverged": frozenset({"diverged", "learning_rate_too_high", "loss_spike", "gradient_explosion"}),
    "unstable": frozenset({"diverged", "learning_rate_too_high", "loss_spike", "gradient_explosion"}),
    "overfit": frozenset({"overfitting", "gap_growth", "slow_validation", "memorization"}),
    "overfit_mild": frozenset({"overfitting", "gap_growth", "slow_validation", "memorization"}),
    "overfit_gap": frozenset({"overfitting", "gap_growth", "slow_validation", "memorization"}),
    "memorized": frozenset({"memorization", "overfitting", "gap_growth"}),
    "underfit_flat": frozenset({"underfitting", "learning_rate_too_low"}),
    "too_short": frozenset({"too_short"}),
}


@dataclass(frozen=True)
class Verdict:
    """What the checks made of one curve."""

    file: str
    label: str
    predicted: str
    missed: tuple[str, ...]
    """Extras of the label that did not fire."""
    beyond: tuple[str, ...]
    """Warnings that the label does not explain."""
    findings: tuple[Finding, ...]

    @property
    def expected(self) -> str:
        """Class of the label."""
        return CLASSES[self.label.partition("+")[0]]

    @property
    def agrees(self) -> bool:
        """The right class, every extra, and no warning more."""
        return self.predicted == self.expected and not self.missed and not self.beyond


def predict(findings: Sequence[Finding]) -> str:
    """The class that the findings speak for: the gravest first."""
    fired = {finding.check: finding for finding in findings if finding.outcome == "fired"}
    errors = {name for name, finding in fired.items() if finding.severity == "error"}
    warned = {name for name, finding in fired.items() if finding.is_warning}
    signs = (
        ("no_supervised_tokens" in errors, "dead_zero_loss"),
        ("non_finite" in errors, "nan_eval"),
        ("diverged" in warned, "diverged"),
        ("learning_rate_too_high" in warned, "unstable"),
        ("overfitting" in warned, "overfit"),
        ("gap_growth" in warned, "overfit_gap"),
        ("overfitting" in fired, "overfit_mild"),
        ("memorization" in fired, "memorized"),
        ("underfitting" in warned, "underfit_flat"),
        ("too_short" in fired, "too_short"),
    )
    return next((name for is_there, name in signs if is_there), "healthy")


def judge(path: Path, label: str) -> Verdict:
    """Diagnoses one curve and compares with its label."""
    findings = diagnose(file_evidence(path))
    fired = {finding.check for finding in findings if finding.outcome == "fired"}
    main, *extras = label.split("+")
    wanted = [check for extra in extras if (check := EXTRAS[extra])]
    explained = SAME_STORY[CLASSES[main]] | set(wanted)
    return Verdict(
        path.name, label, predict(findings), tuple(check for check in wanted if check not in fired),
        tuple(f.check for f in findings if f.is_warning and f.check not in explained), findings,
    )  # fmt: skip


def judge_all(folder: Path) -> list[Verdict]:
    """Every labelled curve of a folder."""
    with (folder / "labels.tsv").open(encoding="utf-8") as file:
        return [judge(folder / row["file"], row["label"]) for row in csv.DictReader(file, delimiter="\t")]


@dataclass(frozen=True)
class Margin:
    """How far healthy curves stay from a threshold."""

    check: str
    threshold: float
    healthy: float
    """The statistic of the healthy curve that comes nearest."""
    healthy_file: str
    faulty: float | None
    """That of the mildest curve with the fault, where there is one."""
    faulty_file: str


HIGH = ("loss_spike", "diverged", "learning_rate_too_high", "overfitting", "gap_growth", "scale_mismatch")
"""Checks that fire above their threshold; underfitting fires below it."""


def margins(verdicts: Sequence[Verdict]) -> list[Margin]:
    """The nearest healthy and the mildest faulty curve of each threshold that a warning hangs on."""
    found = []
    for check in (*HIGH, "underfitting"):
        sign = 1.0 if check in HIGH else -1.0
        measured = [
            (sign * f.statistic, f.threshold, v.file, f.is_warning)
            for v in verdicts
            for f in v.findings
            if f.check == check
            and f.statistic is not None
            and f.threshold
            and (v.expected == "healthy" or f.is_warning)
        ]
        calm = [m for m in measured if not m[3]]
        loud = [m for m in measured if m[3]]
        if not calm:
            continue
        nearest, mildest = max(calm), min(loud, default=None)
        threshold = mildest[1] if mildest else nearest[1]
        alike = [m for m in calm if m[1] == threshold]
        nearest = max(alike, default=nearest)
        found.append(
            Margin(check, threshold, sign * nearest[0], nearest[2], sign * mildest[0] if mildest else None, mildest[2] if mildest else "")
        )  # fmt: skip
    return found


def report(verdicts: Sequence[Verdict]) -> str:
    """The tables as text."""
    counts = Counter((v.expected, v.predicted) for v in verdicts)
    names = [name for name in dict.fromkeys(CLASSES.values()) if any(name in pair for pair in counts)]
    lines = [f"{'label / predicted':<16}" + "".join(f"{name[:13]:>15}" for name in names)]
    lines += [f"{row:<16}" + "".join(f"{counts[row, column] or '.':>15}" for column in names) for row in names]
    lines += ["", f"{sum(v.agrees for v in verdicts)} of {len(verdicts)} agree"]
    lines += [
        f"  {v.file}: {v.label}, predicted {v.predicted}"
        + (f", missed {', '.join(v.missed)}" if v.missed else "")
        + (f", beyond {', '.join(v.beyond)}" if v.beyond else "")
        for v in verdicts
        if not v.agrees
    ]
    errors = errors_on_healthy(verdicts)
    lines += [f"errors on healthy runs: {', '.join(errors) or 'none'}", ""]
    lines += [f"{'check':<24}{'threshold':>10}  {'nearest healthy':<26}{'mildest faulty':<26}"]
    for margin in margins(verdicts):
        faulty = f"{margin.faulty:.3g} ({margin.faulty_file.partition('.')[0]})" if margin.faulty is not None else "-"
        healthy = f"{margin.healthy:.3g} ({margin.healthy_file.partition('.')[0]})"
        lines.append(f"{margin.check:<24}{margin.threshold:>10.3g}  {healthy:<26}{faulty:<26}")
    return "\n".join(lines)


def errors_on_healthy(verdicts: Sequence[Verdict]) -> list[str]:
    """`file: check` of every error on a run that is labelled healthy."""
    return [
        f"{v.file}: {f.check}"
        for v in verdicts
        for f in v.findings
        if v.expected == "healthy" and f.outcome == "fired" and f.severity == "error"
    ]


def as_json(verdicts: Sequence[Verdict]) -> str:
    """The same for a script."""
    rows = [
        {
            "file": v.file, "label": v.label, "expected": v.expected, "predicted": v.predicted, "agrees": v.agrees,
            "missed": v.missed, "beyond": v.beyond,
            "fired": {f.check: f.severity for f in v.findings if f.outcome == "fired"},
        }
        for v in verdicts
    ]  # fmt: skip
    agreement = sum(v.agrees for v in verdicts) / len(verdicts)
    return json.dumps(
        {
            "agreement": agreement, "num_curves": len(verdicts), "errors_on_healthy": errors_on_healthy(verdicts),
            "margins": [vars(margin) for margin in margins(verdicts)], "curves": rows,
        },
        indent=1,
    )  # fmt: skip


def main() -> None:
    """Prints the calibration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    verdicts = judge_all(asked.folder)
    print(as_json(verdicts) if asked.json else report(verdicts))
    agreement = sum(v.agrees for v in verdicts) / len(verdicts)
    sys.exit(0 if agreement >= NEEDED and not errors_on_healthy(verdicts) else 1)


if __name__ == "__main__":
    main()
