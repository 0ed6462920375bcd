"""`harness run --confirm`: an experiment, then more seeds for its best set alone."""

from collections.abc import Callable

from harness.confirmation import Confirmation, choose, read_confirmation
from harness.experiment import run_experiment
from harness.follow import Progress
from harness.plan import Plan, with_confirmation
from harness.ranking import Ranking
from harness.store import write_record


def run_confirmed(
    made: Plan, show: Callable[[Progress], None], warn: Callable[[str], None], say: Callable[[str], None], *,
    strict: bool = False,
) -> tuple[Plan, Ranking, bool]:  # fmt: skip
    """Runs an experiment, brings its best set to `ranking.confirm_seeds` seeds and ranks again.

    Args:
        made: the plan.
        show: is told whenever a worker starts or ends.
        warn: is told what preflight finds, one sentence each.
        say: is told what is confirmed.
        strict: start nothing where preflight finds anything at all.

    Returns: the plan with the cells that were added, the ranking, and whether no cell failed.
    Raises: HarnessError: something is wrong with every cell before anything was started, or there is no best set.
    """
    ranking, no_failure = run_experiment(made, show, warn, strict=strict)
    choice = choose(made.cells, ranking, made.config.ranking)
    if choice is None:
        say(f"the best set has {made.config.ranking.confirm_seeds} seeds or more; there is nothing to confirm")
        return made, ranking, no_failure
    say(f"more seeds for what is {choice.why}")
    before = read_confirmation(made.folder)
    write_record(made.folder.confirmation, Confirmation(choices=(*before.choices, choice)))
    grown = with_confirmation(made)
    added = {cell.id for cell in grown.cells} - {cell.id for cell in made.cells}
    return grown, *run_experiment(grown, show, warn, strict=strict, only=added)
