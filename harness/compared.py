"""Records of a comparison: runs held against the first of them, over the same examples."""

from typing import Any, Literal

from harness.records import Record, StopReason

RunKind = Literal["cell", "configuration", "reference", "predictions"]
SettingSource = Literal["asked", "in force", "fact", "environment"]
"""asked: the experiment file; in force: what the libraries made of it; fact: what came of it; environment: versions."""


class ComparedRun(Record):
    """One of the compared: a cell, a configuration with the runs of all its seeds, a reference, or a file of predictions."""

    name: str
    kind: RunKind
    experiment: str = ""
    cells: tuple[str, ...] = ()
    """Their ids, one a seed."""
    seeds: tuple[int, ...] = ()
    mlflow_run_ids: tuple[str, ...] = ()
    steps: int | None = None
    """Of the first seed."""
    train_seconds: float | None = None
    """Of all seeds together."""
    peak_memory_gib: float | None = None


class MetricDifference(Record):
    """One metric of two runs over the examples that both were scored on."""

    a: float
    b: float
    difference: float
    """a - b."""
    low: float | None
    """95 % interval of the difference alone; None with fewer than 6 pairs."""
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    """By Holm over its family: all metrics of all pairs, or all their slices."""
    wins: int
    """Examples on which a is better."""
    losses: int
    ties: int
    n: int
    """Examples that every run of both was scored on."""
    unscored: int
    """Examples that the metric applies to and that lack a score on either side: left out, never zero."""
    lower_is_better: bool
    better: Literal["a", "b"] | None = None
    """Which is surely better (p_adjusted below 0.05); None: no difference can be claimed."""


class SettingDifference(Record):
    """A field that differs; a list where the seeds of one configuration differ in it, None where it isn't set."""

    a: Any
    b: Any
    source: SettingSource


class Answer(Record):
    """What one run answered to one example."""

    text: str
    stop_reason: StopReason
    score: float | None
    """Of the metric that the disagreement is about; the mean over seeds."""
    scores: dict[str, float | None]
    """Metric -> score of this answer."""
    seed: int | None = None
    """Of the run that gave this answer, where there are several: the one nearest to the mean."""


class Disagreement(Record):
    """One example with both answers."""

    suite: str
    metric: str
    example_id: str
    prompt: str
    reference: str | None
    difference: float
    """Score of a - score of b."""
    a: Answer
    b: Answer


class FindingDifference(Record):
    """A check that fired otherwise, or on fewer seeds, in one of the two."""

    check: str
    a: str
    """Such as `error`, `clear`, `insufficient`, or `warning (2 of 3 seeds)`."""
    b: str
    message_a: str
    """Of the first seed on which it fired; empty where it didn't."""
    message_b: str


class Curve(Record):
    """A loss over supervised tokens."""

    run: str
    seed: int | None
    of: Literal["train", "eval"]
    points: tuple[tuple[float, float], ...]
    """Supervised tokens seen, nats per token."""


class PairComparison(Record):
    """The first run and one other."""

    a: str
    b: str
    criterion: str
    """The metric that the experiment ranks by, else the first that both share."""
    answer: str
    """Whether one is better, in one sentence with its uncertainty."""
    metrics: dict[str, MetricDifference]
    """`suite.metric` -> difference."""
    slices: dict[str, MetricDifference]
    """`suite.metric.slice` -> difference."""
    config_diff: dict[str, SettingDifference]
    """Dotted field -> what differs."""
    disagreements: tuple[Disagreement, ...]
    num_disagreements: int
    """All examples on which the two scored differently, shown or not."""
    findings: tuple[FindingDifference, ...]
    notes: tuple[str, ...]
    """What the reader must know: seeds, what was left out and why."""


class Comparison(Record):
    """Two or more runs, each held against the first."""

    runs: tuple[ComparedRun, ...]
    pairs: tuple[PairComparison, ...]
    """First with second, first with third, ..."""
    curves: tuple[Curve, ...]
    curve_notes: tuple[str, ...]
    method: str
