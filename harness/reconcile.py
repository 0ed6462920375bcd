"""Closes the runs that a killed process or a dead machine left RUNNING, with the status that is true."""

from collections.abc import Iterator, Sequence

from harness.config import TrackingConfig, tracking_uri
from harness.errors import ConfigError, StoreError
from harness.experiment import logged_to
from harness.experiment_file import find_experiment, load_experiment
from harness.recorded import store_uri
from harness.records import Record
from harness.store import SAFE_NAME, known_experiments
from harness.tracking.base import RunStatus
from harness.tracking.connection import current_uri
from harness.tracking.foreign_run import unreachable
from harness.tracking.left_running import close_left, experiment_ids, left_running

STALE_MINUTES = 10.0


class Reconciled(Record):
    """One run that nobody works on any more, and what it was closed as."""

    run_id: str
    name: str
    experiment: str
    status: RunStatus
    why: str


def reconcile(
    names: Sequence[str], *, stale_minutes: float = STALE_MINUTES, dry_run: bool = False
) -> tuple[Reconciled, ...]:
    """Closes what was left RUNNING in some experiments, or in all of the store and of this folder.

    Args:
        names: experiment files, bundled names, or names under which experiments were run.
        stale_minutes: silence after which a run of another machine is taken for dead.
        dry_run: only say what would be done.

    Raises: HarnessError: a store can't be reached or doesn't know an experiment, or an experiment file is wrong.
    """
    found: dict[str, Reconciled] = {}
    for uri, name in list(map(_place, names)) if names else _everywhere():
        ids = experiment_ids(uri, name)
        if names and not ids:
            raise StoreError(f"MLflow knows no experiment {name!r}; run it in this folder first, or set MLFLOW_TRACKING_URI")  # fmt: skip
        try:
            found |= {item.run_id: item for item in _closed(ids, stale_minutes, dry_run=dry_run)}
        except Exception as error:  # whatever the store's driver or HTTP library raises
            raise StoreError(unreachable(current_uri(), error)) from error
    return tuple(found.values())


def _closed(ids: Sequence[str], stale_minutes: float, *, dry_run: bool) -> Iterator[Reconciled]:
    for run in left_running(ids, 60 * stale_minutes):
        status = close_left(run, dry_run=dry_run)
        if status is not None:
            yield Reconciled(run_id=run.run_id, name=run.name, experiment=run.experiment, status=status, why=run.why)


def _place(name: str) -> tuple[str | None, str]:
    """Store and name of an experiment: what its file says, else what it was logged to here."""
    if SAFE_NAME.fullmatch(name) and name in known_experiments():
        return logged_to(name) or store_uri(TrackingConfig()), name
    try:
        path = find_experiment(name)
    except ConfigError:
        if (uri := store_uri(TrackingConfig())) is None:
            raise
        return uri, name
    config = load_experiment(path)
    return tracking_uri(config.tracking), config.name


def _everywhere() -> list[tuple[str | None, str | None]]:
    """The store of this folder or environment with all its experiments, and where else those of this folder were logged."""
    usual = store_uri(TrackingConfig())
    others = [(uri, name) for name in known_experiments() if (uri := logged_to(name)) and uri != usual]
    return [*([(usual, None)] if usual else []), *others]
