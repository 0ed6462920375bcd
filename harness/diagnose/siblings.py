"""Cells of one experiment that differ in nothing but their learning rate."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.diagnose.evidence import Sibling
from harness.grid import Cell, CellSpec
from harness.records import CellResult, Probe
from harness.resources import digest
from harness.store import ExperimentFolder, read_lines, read_record

LEARNING_RATE = "learning_rate"


def siblings(folder: ExperimentFolder, results: Sequence[CellResult]) -> Mapping[str, tuple[Sibling, ...]]:
    """Cell id -> the other cells with the same seed and settings at another learning rate, lowest rate first."""
    groups: dict[str, list[tuple[CellResult, float]]] = defaultdict(list)
    for result in results:
        spec = folder.cell(result.cell).spec
        cell = read_record(spec, CellSpec).cell if spec.exists() else None
        rate = cell.config.training.get(LEARNING_RATE) if cell else None
        if cell is not None and cell.seed is not None and isinstance(rate, int | float):
            groups[_without_rate(cell)].append((result, float(rate)))
    found: dict[str, tuple[Sibling, ...]] = {}
    for group in groups.values():
        if len(group) < 2:
            continue
        known = {result.cell: Sibling(result.name, rate, _last_validation(folder, result)) for result, rate in group}
        for cell_id in known:
            others = [sibling for other, sibling in known.items() if other != cell_id]
            found[cell_id] = tuple(sorted(others, key=lambda sibling: sibling.learning_rate))
    return found


def _without_rate(cell: Cell) -> str:
    content = cell.config.model_dump(mode="json")
    content["training"] = {key: value for key, value in content["training"].items() if key != LEARNING_RATE}
    return digest([content, cell.seed])


def _last_validation(folder: ExperimentFolder, result: CellResult) -> Probe | None:
    probes = [probe for probe in read_lines(folder.cell(result.cell).probes, Probe) if probe.split == "validation"]
    return probes[-1] if probes else None
