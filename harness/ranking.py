"""Records of a ranking: ordered configurations, exclusions, references, and what is not comparable."""

from harness.records import Estimate, Finding, Record


class RankingRow(Record):
    """One configuration (all its seeds together) in the ranking."""

    rank: int
    rank_interval: tuple[int, int]
    in_best_set: bool
    cell: str
    """Id of the configuration's first cell."""
    cells: tuple[str, ...]
    name: str
    seed_count: int
    mlflow_run_ids: tuple[str, ...]
    metrics: dict[str, Estimate]
    findings: tuple[Finding, ...]
    difference_to_best: Estimate | None = None
    """Of the criterion, paired over the same examples; None for the best row itself."""
    train_seconds: float | None = None


class Exclusion(Record):
    """A cell that is not ranked, and why."""

    cell: str
    name: str
    reason: str
    mlflow_run_id: str = ""
    metrics: dict[str, Estimate] = {}
    findings: tuple[Finding, ...] = ()


class ReferenceRow(Record):
    """A row that was not trained here."""

    name: str
    metrics: dict[str, Estimate]


class Difference(Record):
    """A fact that differs between cells though nobody swept it, so that they are not quite comparable."""

    fact: str
    values: dict[str, tuple[str, ...]]
    """Value -> names of the cells that have it."""


class Ranking(Record):
    """Ordered configurations with ties shown as ties, and exclusions with reasons."""

    experiment: str
    criterion: str
    gates: tuple[str, ...]
    rows: tuple[RankingRow, ...]
    excluded: tuple[Exclusion, ...]
    references: tuple[ReferenceRow, ...]
    num_examples: int
    minimum_detectable_difference: float | None
    """Of the criterion, between the two best rows; None with fewer than two rows."""
    caveats: tuple[str, ...]
    """What the reader must know before believing the order."""
    not_comparable: tuple[Difference, ...] = ()
