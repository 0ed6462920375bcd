"""What a name on the command line stands for: a cell, an MLflow run or a file."""

from pathlib import Path
from typing import NamedTuple

from harness.diagnose.cell import diagnose_cell, diagnose_trainer_state
from harness.errors import ConfigError
from harness.records import CellResult, Finding
from harness.store import CellFolder, ExperimentFolder, experiment_folder, known_experiments, read_record


class FoundCell(NamedTuple):
    """A cell with its folder and findings."""

    result: CellResult
    folder: CellFolder
    findings: tuple[Finding, ...]


def find_cell(target: str) -> FoundCell:
    """The cell with this id (or the start of it), name or MLflow run id, among the experiments of the working folder.

    Raises: ConfigError: there is none, or several.
    """
    found: list[tuple[ExperimentFolder, CellResult]] = []
    experiment, _, wanted = target.rpartition("/")
    for name in known_experiments():
        if experiment and name != experiment:
            continue
        folder = experiment_folder(name)
        results = [read_record(path, CellResult) for path in folder.path.glob("cells/*/result.json")]
        found += [
            (folder, r)
            for r in results
            if wanted in (r.name, r.mlflow_run_id) or (len(wanted) >= 4 and r.cell.startswith(wanted))
        ]
    if not found:
        raise ConfigError(
            f"{target}: there is no such cell, run or file in this folder; `harness list` and `harness plan EXPERIMENT` name them"
        )
    if len(found) > 1:
        listed = ", ".join(f"{folder.path.name}/{r.cell} ({r.name})" for folder, r in found)
        raise ConfigError(f"{target}: several cells have this name: {listed}; give one of these")
    folder, result = found[0]
    cell = folder.cell(result.cell)
    bases = [read_record(p, CellResult) for p in folder.path.glob("cells/*/result.json")]
    base = next((b for b in bases if b.seed is None and b.status == "finished" and b.base == result.base), None)
    return FoundCell(result, cell, diagnose_cell(cell, result, base))


def diagnose_target(target: str) -> tuple[Finding, ...]:
    """Findings of a cell, an MLflow run id or a `trainer_state.json`.

    Raises: HarnessError: there is no such thing, or the file is no trainer state.
    """
    path = Path(target)
    if path.suffix == ".json" or path.is_file():
        return diagnose_trainer_state(path)
    return find_cell(target).findings
