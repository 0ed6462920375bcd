"""From an experiment to its cells, and from cells to packs."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from harness.checkpoint_config import Keep
from harness.config import ExperimentConfig, RunConfig
from harness.errors import ConfigError
from harness.eval_config import EvalConfig, ReferenceConfig
from harness.experiment_file import problems_of, resolve_files, set_dotted
from harness.records import Record
from harness.resources import digest
from harness.yaml_text import Location

MAX_CELLS = 10_000


class Cell(Record):
    """One training variant, fully resolved, or (without a seed) one reference."""

    id: str
    """12 hex digits of the config, the seed and the data's fingerprint."""
    name: str
    group: str
    """The same digest without the seed."""
    overrides: dict[str, Any]
    """Dotted field -> value, as swept."""
    seed: int | None
    config: RunConfig
    reference: ReferenceConfig | None = None
    """What kind of reference it is; None for a cell."""

    @property
    def base(self) -> str:
        """Digest of the base model that the cell starts from."""
        return digest(self.config.model.model_dump(exclude={"dtype", "attn_implementation"}))


class CellSpec(Record):
    """All that a worker needs to know about one cell: its `cell.json`."""

    cell: Cell
    experiment: str
    evals: tuple[EvalConfig, ...]
    parent_run_id: str
    system_metrics: bool
    num_threads: int
    """CPU threads of each process."""
    criterion: str = ""
    """The metric that is ranked by: examples that fail it come first among the traces."""
    failing_traces: int = 0
    """Failing answers that are logged as traces, at most."""
    keep: Keep = "best+last"
    """Which checkpoints stay."""


class _Draft(NamedTuple):
    name: str
    overrides: dict[str, Any]
    location: Location


def expand(
    config: ExperimentConfig, folder: Path, fingerprint: Callable[[RunConfig], str], where: Callable[[Location], str]
) -> tuple[Cell, ...]:
    """Every cell of the experiment, in the order of the file.

    Args:
        config: the experiment.
        folder: of the experiment file, to which its paths are relative.
        fingerprint: digest of the data and template that a cell will read.
        where: names the file and line of a key, for complaints.

    Raises: ConfigError: one line for each thing that is wrong in any cell.
    """
    if (count := _num_cells(config)) > MAX_CELLS:
        raise ConfigError(
            f"{where(('grid',))}: the experiment has {count:,} cells, {MAX_CELLS:,} at most; list fewer values, variants or seeds"
        )
    problems: list[str] = []
    resolved: list[tuple[_Draft, RunConfig]] = []
    for draft in _drafts(config):
        try:
            resolved.append((draft, _resolve(config, draft, folder)))
        except ValidationError as error:
            for location, text in problems_of(error, RunConfig):
                line = where(_blame(config, draft, location))
                problems.append(f"{line}: cell {draft.name}: {text}" if draft.overrides else f"{line}: {text}")
        except ConfigError as error:
            problems.append(f"{where(draft.location)}: cell {draft.name}: {error}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(_without_repeats(problems))))
    cells = [
        _cell(draft, run, seed, fingerprint(run), len(config.seeds)) for draft, run in resolved for seed in config.seeds
    ]
    return _without_twins(cells, where)


def _without_repeats(problems: Sequence[str]) -> Iterator[str]:
    """Says a thing that is wrong in every cell once, not once a cell."""
    seen: dict[str, int] = {}
    for problem in problems:
        line, _, text = problem.partition(": cell ")
        key = f"{line}: {text.partition(': ')[2]}" if text else problem
        seen[key] = seen.get(key, 0) + 1
    for problem in problems:
        line, _, text = problem.partition(": cell ")
        key = f"{line}: {text.partition(': ')[2]}" if text else problem
        yield key if seen[key] > 1 else problem


def _num_cells(config: ExperimentConfig) -> int:
    combinations = math.prod(len(values) for values in config.grid.values()) if config.grid else 0
    return (combinations + len(config.variants) or 1) * len(config.seeds)


def _drafts(config: ExperimentConfig) -> Iterator[_Draft]:
    if not config.grid and not config.variants:
        yield _Draft("default", {}, ())
    if config.grid:
        keys = list(config.grid)
        short = _short_names(keys)
        for values in itertools.product(*config.grid.values()):
            name = ",".join(f"{short[key]}={_shown(value)}" for key, value in zip(keys, values, strict=True))
            yield _Draft(name, dict(zip(keys, values, strict=True)), ("grid", keys[0]))
    for name, overrides in config.variants.items():
        yield _Draft(name, dict(_flat(overrides)), ("variants", name))


def _flat(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`{training: {max_steps: 5}}` as `training.max_steps: 5`, so that a section and a dotted field read the same."""
    for key, value in overrides.items():
        if key in RunConfig.model_fields and isinstance(value, dict):
            yield from ((f"{key}.{field}", item) for field, item in value.items())
        else:
            yield key, value


def _short_names(keys: Sequence[str]) -> Mapping[str, str]:
    last = [key.rpartition(".")[2] for key in keys]
    return {key: short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)}


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _resolve(config: ExperimentConfig, draft: _Draft, folder: Path) -> RunConfig:
    """The sections of the file with one cell's overrides laid over them, validated as a whole."""
    content: dict[str, Any] = {name: _copy(value) for name, value in config.base_run().items()}
    for key, value in draft.overrides.items():
        set_dotted(content, key, _copy(value))
    resolve_files(content, folder)
    return RunConfig.model_validate(content)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _blame(config: ExperimentConfig, draft: _Draft, location: Location) -> Location:
    """The place in the file that set the field: the grid's or the variant's line, else the section's."""
    dotted = ".".join(str(part) for part in location)
    for key in draft.overrides:
        if dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}."):
            return ("grid", key) if key in config.grid else (*draft.location, key, *key.split("."))
    return location


def _cell(draft: _Draft, run: RunConfig, seed: int, fingerprint: str, num_seeds: int) -> Cell:
    return Cell(
        id=_cell_id(run, seed, fingerprint),
        name=f"{draft.name},seed={seed}" if num_seeds > 1 else draft.name,
        group=digest([_content(run), fingerprint]),
        overrides=draft.overrides,
        seed=seed,
        config=run,
    )


def _cell_id(run: RunConfig, seed: int, fingerprint: str) -> str:
    return digest([_content(run), fingerprint, seed])


def _content(run: RunConfig) -> dict[str, Any]:
    """What of a config tells cells apart: what files hold is in the fingerprint, and where they lie must not matter."""
    return run.model_dump(mode="json", exclude={"template": True, "data": {"train", "validation", "test"}})


def reseeded(cell: Cell, seed: int, fingerprint: str) -> Cell:
    """The same configuration with another seed: the cell that the experiment file would make of it."""
    name = f"{cell.name.removesuffix(f',seed={cell.seed}')},seed={seed}"
    return cell.model_copy(update={"id": _cell_id(cell.config, seed, fingerprint), "name": name, "seed": seed})


def _without_twins(cells: Sequence[Cell], where: Callable[[Location], str]) -> tuple[Cell, ...]:
    names: dict[str, str] = {}
    for cell in cells:
        if cell.id in names:
            raise ConfigError(
                f"{where(('grid',))}: cells {names[cell.id]} and {cell.name} are the same; delete one of the two"
            )
        names[cell.id] = cell.name
    return tuple(cells)


def plan(cells: Sequence[Cell]) -> tuple[tuple[str, ...], ...]:
    """Packs of cell ids that one process trains together; today every pack is one cell."""
    return tuple((cell.id,) for cell in cells)


def reference_cell(reference: ReferenceConfig, name: str, config: RunConfig, fingerprint: str) -> Cell:
    """A cell that is evaluated but never trained.

    Args:
        reference: what it is.
        name: how tables call it.
        config: its model, template and data.
        fingerprint: digest of these, and of the file of its predictions.
    """
    asked = reference.model_dump(exclude={"concurrency", "timeout_seconds", "max_retries", "api_key_env"})
    # An adapter decides in which precision a base is loaded.
    loaded = [config.model.model_dump(), config.quantization, config.adapter is not None]
    group = digest(["reference", asked, name, loaded, fingerprint])
    return Cell(id=group, name=name, group=group, overrides={}, seed=None, config=config, reference=reference)
