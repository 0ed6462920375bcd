"""How long cells will take, from a few timed steps of each."""

from collections.abc import Mapping

from harness.cell_checks import CellCheck
from harness.plan import Plan
from harness.resources import digest


def timed_checks(made: Plan, checks: Mapping[str, CellCheck]) -> dict[str, CellCheck]:
    """The checks with the estimated seconds of training, evaluations aside; cells that can't work are not timed.

    Cells that differ in a learning rate or a seed alone take the same time and are timed once.
    """
    from harness.train.probe import seconds_per_step

    known: dict[str, float] = {}
    timed = dict(checks)
    for cell in made.cells:
        check = checks[cell.id]
        if check.messages("error") or check.steps is None:
            continue
        content = cell.config.model_dump(mode="json")
        content["training"] = {
            k: v for k, v in cell.config.training.items() if k not in ("learning_rate", "weight_decay")
        }
        key = digest(content)
        if key not in known:
            known[key] = seconds_per_step(cell, made.folder.tokenized)
        timed[cell.id] = check.model_copy(update={"seconds": round(known[key] * check.steps, 1)})
    return timed
