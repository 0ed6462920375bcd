"""The Python API, for scripts and notebooks: the commands of the same names, with pandas frames for tables.

`import harness` shows these functions as its own: `harness.rank("quickstart").frame`.
"""

import html
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness import frames
from harness.collect import Collected, collect, rank_experiment
from harness.compared import Comparison
from harness.comparison import compare as compare_targets
from harness.experiment import report_experiment, run_experiment
from harness.follow import Progress
from harness.plan import Plan, plan_experiment
from harness.ranking import Ranking
from harness.recorded import find_plan
from harness.records import CellResult

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)
Overrides = Sequence[str]


@dataclass(frozen=True)
class Loaded:
    """Everything that is known of an experiment, as frames that are made when they are asked for."""

    plan: Plan
    collected: Collected

    @cached_property
    def runs(self) -> "DataFrame":
        """One row a cell or reference: swept fields, status, metrics with `.low` and `.high`, cost, MLflow run id."""
        return frames.runs_frame(self._everyone)

    @cached_property
    def curves(self) -> "DataFrame":
        """Long: `cell, name, step, epoch, seconds, supervised_tokens, metric, value`."""
        return frames.curves_frame(self.plan.folder, self.collected.cells)

    @cached_property
    def scores(self) -> "DataFrame":
        """Long: `cell, name, suite, metric, example_id, cluster, score, failure`; NaN: could not be scored."""
        return frames.scores_frame(self._everyone)

    @cached_property
    def generations(self) -> "DataFrame":
        """One row a completion: `cell, name, suite, example_id, sample, prompt, text, stop_reason`, tokens, seconds."""
        return frames.generations_frame(self.plan.folder, self._everyone)

    @cached_property
    def findings(self) -> "DataFrame":
        """One row a check of a cell: `cell, name, check, outcome, severity, message, advice, statistic, threshold`."""
        return frames.findings_frame(self.collected.cells, self.collected.findings)

    @property
    def _everyone(self) -> list[CellResult]:
        return [*self.collected.cells, *self.collected.references]

    def __repr__(self) -> str:
        """How much there is of it."""
        cells, references = len(self.collected.cells), len(self.collected.references)
        return f"<{self.plan.config.name}: {cells} cells, {references} references; .runs .curves .scores .generations .findings>"

    def _repr_html_(self) -> str:
        return _table(self.runs)


@dataclass(frozen=True)
class Ranked:
    """A ranking."""

    ranking: Ranking
    """The whole record."""

    @cached_property
    def frame(self) -> "DataFrame":
        """One row a configuration, best first: rank, its interval, metrics and differences with `.low` and `.high`."""
        return frames.ranking_frame(self.ranking)

    @cached_property
    def excluded(self) -> "DataFrame":
        """One row a cell that was not ranked, with its `reason`."""
        return frames.excluded_frame(self.ranking)

    @cached_property
    def references(self) -> "DataFrame":
        """One row a reference."""
        return frames.references_frame(self.ranking)

    @property
    def best(self) -> tuple[str, ...]:
        """Names of the configurations between which no difference is sure, none of the others being better."""
        return tuple(row.name for row in self.ranking.rows if row.in_best_set)

    def __repr__(self) -> str:
        """The best set, and on how much it rests."""
        ranking = self.ranking
        best = ", ".join(self.best) or "none"
        return f"<{ranking.experiment} by {ranking.criterion} on {ranking.num_examples} examples; best set: {best}>"

    def _repr_html_(self) -> str:
        caveats = "".join(f"<li>{html.escape(caveat)}</li>" for caveat in self.ranking.caveats)
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{_table(self.frame)}<ul>{caveats}</ul>"


@dataclass(frozen=True)
class Compared:
    """Runs held against the first of them."""

    comparison: Comparison
    """The whole record."""

    @cached_property
    def metrics(self) -> "DataFrame":
        """One row a metric of every pair: `run_a, run_b, metric, a, b, difference, low, high, p_adjusted, wins`..."""
        return frames.differences_frame(self.comparison, slices=False)

    @cached_property
    def slices(self) -> "DataFrame":
        """The same of every slice, as `suite.metric.slice`."""
        return frames.differences_frame(self.comparison, slices=True)

    @cached_property
    def settings(self) -> "DataFrame":
        """One row a setting that differs: `run_a, run_b, field, a, b, source`."""
        return frames.settings_frame(self.comparison)

    @cached_property
    def disagreements(self) -> "DataFrame":
        """One row an example on which the two scored differently, with both answers."""
        return frames.disagreements_frame(self.comparison)

    def __repr__(self) -> str:
        """The answer of every pair."""
        return "\n".join(pair.answer for pair in self.comparison.pairs)

    def _repr_html_(self) -> str:
        answers = "".join(f"<p>{html.escape(pair.answer)}</p>" for pair in self.comparison.pairs)
        return f"{answers}{_table(self.metrics)}"


@dataclass(frozen=True)
class Reports:
    """Where the report of an experiment lies."""

    html: Path
    markdown: Path
    json: Path

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html.read_text(encoding="utf-8"))}" width="100%" height="800"></iframe>'
        )


def _table(frame: "DataFrame") -> str:
    """What a notebook shows; names and texts are escaped."""
    return str(frame.to_html(escape=True, float_format=lambda value: f"{value:.3f}", na_rep=""))


def run(
    experiment: str | Path, overrides: Overrides = (), *, on_progress: Callable[[Progress], None] | None = None, strict: bool = False
) -> Ranked:  # fmt: skip
    """Trains, evaluates and ranks what is not done yet, as `harness run`; says nothing but through `logging`.

    Cells that fail are in `.excluded` with their reason, and the others go on.

    Args:
        experiment: a YAML file or a bundled name.
        overrides: `dotted.key=value`, the value as YAML.
        on_progress: is told whenever a cell starts or ends.
        strict: start nothing where the checks find anything at all.

    Raises: HarnessError: something is wrong with the experiment; KeyboardInterrupt: the workers were stopped, and
        the same call goes on where they were.
    """
    made = plan_experiment(str(experiment), overrides)
    with _without_main_script():
        ranking, _ = run_experiment(made, on_progress or _ignore, logger.warning, strict=strict)
    return Ranked(ranking)


def _ignore(progress: Progress) -> None:
    """Nobody asked."""


@contextmanager
def _without_main_script() -> Iterator[None]:
    """Workers don't import the script that calls: without `if __name__ == "__main__"` each would run it again."""
    main = sys.modules["__main__"]
    hidden: dict[str, object] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def load(experiment: str | Path, overrides: Overrides = ()) -> Loaded:
    """All results of an experiment, from its records alone: in this folder, else at the tracking server.

    Args:
        experiment: a YAML file, a bundled name, or the name of an experiment that was run.
        overrides: `dotted.key=value`, the value as YAML.

    Raises: HarnessError: nothing was run yet, or the file is wrong.
    """
    made = find_plan(str(experiment), overrides)
    return Loaded(made, collect(made))


def rank(
    experiment: str | Path, overrides: Overrides = (), *, by: str | None = None, gates: Sequence[str] | None = None
) -> Ranked:
    """The ranking of an experiment, from its records alone, as `harness rank`.

    Args:
        experiment: a YAML file, a bundled name, or the name of an experiment that was run.
        overrides: `dotted.key=value`, the value as YAML.
        by: another criterion, such as `retention.accuracy`.
        gates: other gates, such as `["template_adherence.all.low >= 0.95"]`; `[]`: none.

    Raises: HarnessError: nothing was run yet, or the criterion or a gate is wrong.
    """
    made = find_plan(str(experiment), overrides)
    changes: dict[str, object] = {} if by is None else {"by": by}
    if gates is not None:
        changes["gates"] = tuple(gates)
    ranked_by = made.config.ranking.model_copy(update=changes)
    changed = made._replace(config=made.config.model_copy(update={"ranking": ranked_by}))
    return Ranked(rank_experiment(changed, collect(changed)))


def compare(a: str, b: str, *others: str, experiment: str | None = None, limit: int = 10) -> Compared:
    """The first run held against each of the others, example by example, as `harness compare`.

    Args:
        a: a cell's id or name, a configuration, a reference, an MLflow run id, or a file of predictions.
        b: another one.
        others: more of them.
        experiment: whose examples files of predictions answer.
        limit: how many examples on which they disagree are shown of each pair.

    Raises: HarnessError: one of them is unknown, or nothing was asked of both.
    """
    return Compared(compare_targets([a, b, *others], experiment=experiment, limit=limit))


def report(experiment: str | Path, overrides: Overrides = ()) -> Reports:
    """Writes the report of an experiment from its records, as `harness report`.

    Args:
        experiment: a YAML file, a bundled name, or the name of an experiment that was run.
        overrides: `dotted.key=value`, the value as YAML.

    Raises: HarnessError: nothing was run yet.
    """
    made = find_plan(str(experiment), overrides)
    report_experiment(made)
    return Reports(made.folder.report("html"), made.folder.report("md"), made.folder.report("json"))
