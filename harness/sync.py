"""Sends tracking servers what they could not take while experiments of this folder ran."""

import logging
from collections.abc import Sequence

from harness.config import tracking_uri
from harness.errors import ConfigError, HarnessError
from harness.experiment import deliver_rest, ending_truthfully, finish
from harness.locks import only_run
from harness.plan import Plan
from harness.recorded import recorded_plan
from harness.records import Record
from harness.store import SAFE_NAME, experiment_folder, known_experiments
from harness.tracking import connection

logger = logging.getLogger(__name__)


class Synced(Record):
    """What became of one experiment."""

    experiment: str
    delivered: tuple[str, ...] = ()
    """Cells, references and the report whose runs now have everything."""
    left: tuple[str, ...] = ()
    """The same, where something is still missing."""
    unfinished: tuple[str, ...] = ()
    """Cells that never ended: `harness run` goes on with them."""


def sync(names: Sequence[str]) -> tuple[Synced, ...]:
    """Delivers what is waiting in some experiments, or in all of this folder; says nothing of those that wait for nothing.

    Raises: HarnessError: one of the named experiments is unknown or at work, or its store can't be reached.
    """
    known = known_experiments()
    for name in names:
        if not SAFE_NAME.fullmatch(name) or name not in known:
            raise ConfigError(f"{name}: no such experiment was run in this folder; here are {', '.join(known) or 'none'}")  # fmt: skip
    done = [_sync(recorded_plan(experiment_folder(name))) for name in names] if names else map(_sync_if_possible, known)
    return tuple(item for item in done if item is not None)


def _sync_if_possible(name: str) -> Synced | None:
    """Nobody asked for this one, so what keeps it waiting doesn't keep the others."""
    try:
        return _sync(recorded_plan(experiment_folder(name)))
    except HarnessError as error:
        logger.warning("%s: %s", name, error)
        return Synced(experiment=name, left=("all that is waiting",))


def _sync(made: Plan) -> Synced | None:
    rows = made.everything()
    waiting = [row for row in rows if made.folder.cell(row.id).undelivered.exists()]
    is_untold = made.folder.undelivered.exists()
    if not waiting and not is_untold:
        return None
    connection.connect(tracking_uri(made.config.tracking), made.config.name)
    with only_run(made.folder):
        rest = deliver_rest(made)
        unfinished = tuple(row.name for row in rows if not made.folder.cell(row.id).result.exists())
        if not unfinished:
            # Those who look at a run want to see its place in the ranking too.
            with ending_truthfully(made):
                finish(made)
    is_told = not made.folder.undelivered.exists()
    return Synced(
        experiment=made.config.name,
        delivered=(*rest.delivered, *(("the report",) if is_told else ())),
        left=(*rest.left, *(() if is_told or unfinished else ("the report",))),
        unfinished=unfinished,
    )
