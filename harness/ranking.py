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
    simultaneous_interval: Estimate | None = None
    """Of the criterion: the bounds hold for all rows together."""
    difference_to_base: Estimate | None = None
    """Of the criterion, paired over the same examples; None where the base was not measured."""
    difference_to_best: Estimate | None = None
    """Of the criterion, to the first row, paired over the same examples; None for the first row itself."""
    confirmed: Estimate | None = None
    """Of the criterion on examples that took no part in choosing; None outside the best set, or where none were kept."""
    probability_best: float | None = None
    """Share of the draws in which this row comes first: information only."""
    is_pareto: bool = False
    """Whether no other row is as good in the criterion and every secondary metric, and better in one."""
    train_seconds: float | None = None


class Exclusion(Record):
    """A cell that is not ranked, and why."""

    cell: str
    name: str
    reason: str
    is_finished: bool = True
    """Whether it failed a gate; else it failed or was stopped itself, as the reason says."""
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
    secondary: tuple[str, ...] = ()
    """Metrics that were weighed against the criterion."""
    num_examples: int
    """That decide the order."""
    num_clusters: int = 0
    num_confirm_examples: int = 0
    """Kept for the best set's final number."""
    num_seeds: int = 0
    """Fewest of any row that was trained; 0 where all are imported."""
    minimum_detectable_difference: float | None
    """Of the criterion, between the first two rows, at 80 % power; None with fewer than two, or where they don't vary."""
    optimism: float | None = None
    """By about how much the best score is too good for having been selected."""
    method: str = ""
    """How the order was found, in one sentence."""
    caveats: tuple[str, ...]
    """What the reader must know before believing the order."""
    not_comparable: tuple[Difference, ...] = ()
