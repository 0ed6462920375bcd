"""What the names given to `harness compare` stand for, with all that is needed to hold it against another."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.compared import ComparedRun, RunKind
from harness.config import RankingConfig, RunConfig
from harness.configurations import configuration_name
from harness.data.splits import load_splits
from harness.errors import ConfigError
from harness.eval_config import EvalConfig
from harness.evaluate import evaluate
from harness.grid import CellSpec
from harness.library_fields import did_you_mean
from harness.plan import plan_experiment
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import CellResult, Example, Finding, Generation, TracePoint
from harness.resources import digest
from harness.results import ending
from harness.score import Ruler, entry_of, of_data
from harness.store import (
    CellFolder,
    ExperimentFolder,
    experiment_folder,
    known_experiments,
    read_lines,
    read_record,
    restored_root,
)
from harness.suite import load_suite, suite_examples
from harness.targets import MLFLOW_ID, FoundCell, find_cell, open_cell

PREDICTION_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MIN_ID = 4


class Part(NamedTuple):
    """One trained cell, one reference or one file of predictions, with what it left behind."""

    result: CellResult
    findings: tuple[Finding, ...]
    config: RunConfig | None
    generations: Mapping[str, Mapping[str, Generation]]
    """Suite -> example id -> first answer."""
    examples: Mapping[str, Mapping[str, Example]]
    """Suite -> id -> what was asked."""
    trace: Sequence[TracePoint]
    evals: tuple[EvalConfig, ...] = ()
    """What it was asked, as its experiment says it."""


class Side(NamedTuple):
    """One of the compared."""

    target: str
    """As it was given."""
    name: str
    kind: RunKind
    experiment: str
    criterion: str
    """The metric that its experiment ranks by; empty where it has none."""
    parts: tuple[Part, ...]
    """One a seed."""
    notes: tuple[str, ...] = ()

    @property
    def is_trained(self) -> bool:
        """Whether it was trained here, so that there are settings, curves and seeds."""
        return self.kind in ("cell", "configuration")

    def record(self) -> ComparedRun:
        """What is shown of it."""
        trained = [part.result.train for part in self.parts if part.result.train]
        return ComparedRun(
            name=self.name,
            kind=self.kind,
            experiment=self.experiment,
            cells=tuple(part.result.cell for part in self.parts) if self.kind != "predictions" else (),
            seeds=tuple(part.result.seed for part in self.parts if part.result.seed is not None),
            mlflow_run_ids=tuple(part.result.mlflow_run_id for part in self.parts if part.result.mlflow_run_id),
            steps=trained[0].steps if trained else None,
            train_seconds=sum(train.seconds for train in trained) if trained else None,
            peak_memory_gib=max((t.peak_memory_gib for t in trained if t.peak_memory_gib is not None), default=None),
        )


def sides_of(targets: Sequence[str], ruler: Ruler, experiment: str | None) -> list[Side]:
    """What the targets stand for, in their order, each with a name of its own.

    Args:
        targets: cells, configurations, references, MLflow run ids, or files of predictions.
        ruler: what files of predictions are held against.
        experiment: whose examples they answer; by default those of the first of the cells.

    Raises: HarnessError: a target is unknown, or two are the same.
    """
    recorded = [target for target in targets if not _is_file(target)]
    here = list(_results(None)) if recorded else []
    known = {target: _known(target, here) for target in recorded}
    beside = next(iter(known.values()), None)
    sides = [known[target] if target in known else _predicted(target, ruler, beside, experiment) for target in targets]
    _check_distinct(sides)
    return _with_own_names(sides)


def _is_file(target: str) -> bool:
    return Path(target).is_file() or target.endswith(PREDICTION_SUFFIXES)


def _check_distinct(sides: Sequence[Side]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for side in sides:
        own = [(side.experiment, part.result.cell) for part in side.parts]
        for key in own:
            if key in seen:
                raise ConfigError(
                    f"{seen[key]} and {side.target} are the same run, or share a seed; name two that differ"
                )
        seen |= dict.fromkeys(own, side.target)


def _with_own_names(sides: Sequence[Side]) -> list[Side]:
    names = [side.name for side in sides]
    longer = [f"{side.experiment}/{side.name}" if side.experiment else side.target for side in sides]
    chosen = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    ids = [
        name if chosen.count(name) == 1 else f"{name} ({side.parts[0].result.cell})"
        for name, side in zip(chosen, sides, strict=True)
    ]
    return [side._replace(name=name) for side, name in zip(sides, ids, strict=True)]


def _known(target: str, here: Sequence["_Match"]) -> Side:
    """A cell, a configuration, or a reference; `here` is all that was trained or scored in this folder."""
    run_id = MLFLOW_ID.fullmatch(target)
    wanted = run_id[1] if run_id else target
    found = _called(wanted, here) or _fetched(target, wanted, here)
    _check_one(target, found)
    cells = [_opened(match, here) for match in found]
    experiment = found[0][0].path
    finished = [cell for cell in cells if cell.result.suites]
    if not finished:
        failed = cells[0].result
        reason = "was asked nothing" if failed.status == "finished" else ending(failed)
        raise ConfigError(f"{target}: {failed.name} {reason}; there is nothing to compare")
    parts = tuple(sorted(map(part_of, finished), key=lambda part: part.result.seed or 0))
    first = parts[0].result
    is_configuration = len(cells) > 1
    return Side(
        target=target,
        name=configuration_name(first) if is_configuration else first.name,
        kind="reference" if first.reference else "configuration" if is_configuration else "cell",
        experiment=experiment.name,
        criterion=criterion_of(cells[0].folder),
        parts=parts,
        notes=tuple(f"{cell.result.name} failed and is left out." for cell in cells if not cell.result.suites),
    )


_Match = tuple[ExperimentFolder, Path, CellResult]


def _results(root: Path | None) -> Iterator[_Match]:
    """Every result below a folder: cells, references, and predictions that were scored beside them."""
    for name in known_experiments(root):
        folder = experiment_folder(name, root)
        files = (*folder.path.glob("cells/*/result.json"), *folder.imported("x").path.parent.glob("*/result.json"))
        for path in sorted(files):
            yield folder, path, read_record(path, CellResult)


def _called(wanted: str, here: Sequence[_Match]) -> list[_Match]:
    """The cells with this name, id, start of an id or run id; of a name without its seed, all of them.

    Those of the trainings in this folder, else of what was fetched from a tracking server.
    """
    return [match for match in here if _is_called(wanted, match)] or [
        match for match in _results(restored_root()) if _is_called(wanted, match)
    ]


def _is_called(wanted: str, match: _Match) -> bool:
    folder, _, result = match
    called = wanted.removeprefix(f"{folder.path.name}/")
    names = (result.name, configuration_name(result), result.mlflow_run_id)
    return called in names or (len(called) >= MIN_ID and result.cell.startswith(called))


def _fetched(target: str, wanted: str, here: Sequence[_Match]) -> list[_Match]:
    """The same after a look at the tracking server; names that are nearly the same are told where there is none.

    Raises: ConfigError: there is none.
    """
    try:
        find_cell(target)
    except ConfigError as error:
        if found := _called(wanted, here):
            return found  # the seeds of a configuration, which is no cell
        names = {name for _, _, result in here for name in (result.name, configuration_name(result))}
        raise ConfigError(f"{error}{did_you_mean(target.rpartition('/')[2], sorted(names))}") from error
    return _called(wanted, here)


def _check_one(target: str, found: Sequence[_Match]) -> None:
    if len({(folder.path, result.group) for folder, _, result in found}) > 1:
        listed = ", ".join(f"{folder.path.name}/{result.cell} ({result.name})" for folder, _, result in found)
        raise ConfigError(f"{target}: several configurations have this name: {listed}; give one of these")


def _opened(match: _Match, here: Sequence[_Match]) -> FoundCell:
    folder, path, result = match
    if not _is_cell(match):
        return FoundCell(result, CellFolder(path.parent), ())
    beside = [other[2] for other in here if other[0].path == folder.path and _is_cell(other)]
    # What was fetched from a tracking server isn't here.
    return open_cell(folder, result, beside) if beside else find_cell(f"{folder.path.name}/{result.cell}")


def _is_cell(match: _Match) -> bool:
    return match[1].parent.parent.name == "cells"


def part_of(cell: FoundCell) -> Part:
    """A cell with what it left behind."""
    folder, suites = cell.folder, cell.result.suites
    spec = read_record(folder.spec, CellSpec) if folder.spec.exists() else None
    return Part(
        result=cell.result,
        findings=cell.findings,
        config=spec.cell.config if spec else None,
        generations={s.suite: _first_answers(folder.generations(s.suite, s.digest)) for s in suites},
        examples={s.suite: {e.id: e for e in read_lines(folder.asked(s.suite, s.digest), Example)} for s in suites},
        trace=list(read_lines(folder.trace, TracePoint)),
        evals=spec.evals if spec else (),
    )


def _first_answers(path: Path) -> dict[str, Generation]:
    return {line.example_id: line for line in read_lines(path, Generation) if line.sample == 0}


def criterion_of(cell: CellFolder) -> str:
    """The metric that the experiment of a cell ranks by; empty where that isn't known."""
    config = ExperimentFolder(cell.path.parent.parent).config
    if not config.exists():
        return ""
    ranking = json.loads(config.read_text(encoding="utf-8"))["config"].get("ranking", {})
    return RankingConfig.model_validate(ranking).by


def _predicted(target: str, ruler: Ruler, beside: Side | None, experiment: str | None) -> Side:
    """A file of predictions, scored; nothing is written."""
    path = Path(target)
    if not path.is_file():
        raise ConfigError(f"{target}: there is no such file; give the path of a file of predictions")
    options, examples = _asked(target, ruler, beside, experiment)
    suite = load_suite(options.suite)
    with tempfile.TemporaryDirectory() as scratch:
        folder = CellFolder(Path(scratch))
        result = evaluate(suite, options, examples, PredictedAnswers(load_predictions(path)), folder)
        answers = _first_answers(folder.generations(options.label, result.digest))
    # What only the model itself could tell was never measured.
    result = result.model_copy(update={"scores": tuple(s for s in result.scores if s.metric in result.metrics)})
    key = digest(["predictions", str(path.resolve())])
    row = CellResult(
        cell=key, name=path.stem, group=key, seed=None, reference="predictions", overrides={}, status="finished", suites=(result,)
    )  # fmt: skip
    asked = {example.id: example for example in examples}
    part = Part(row, (), None, {result.suite: answers}, {result.suite: asked}, ())
    return Side(target=target, name=path.stem, kind="predictions", experiment="", criterion="", parts=(part,))


def _asked(
    target: str, ruler: Ruler, beside: Side | None, experiment: str | None
) -> tuple[EvalConfig, Sequence[Example]]:
    """What predictions answer: the examples of a file, of an experiment, or those that the cell beside them was asked."""
    if ruler.data is not None:
        options = of_data(ruler)
        return options, suite_examples(load_suite(ruler.suite), options, [])
    if ruler.scorers or ruler.allow_code_execution:
        raise ConfigError("--scorers and --allow-code-execution go with --data; an experiment has scorers of its own")
    if experiment is not None:
        made = plan_experiment(experiment)
        options = entry_of(made.config.evals, ruler.suite, f"the evals of {experiment}")
        test = [row.example() for row in load_splits(made.cells[0].config.data).test] if made.cells else []
        return options, suite_examples(load_suite(options.suite), options, test)
    if beside is None:
        raise ConfigError(f"{target}: say what the predictions answer, with --data FILE or --experiment EXPERIMENT")
    return _asked_beside(beside, ruler.suite)


def _asked_beside(side: Side, suite: str) -> tuple[EvalConfig, Sequence[Example]]:
    part = side.parts[0]
    examples = part.examples.get(suite, {})
    if not examples:
        raise ConfigError(
            f"{side.name} left no record of what {suite} asked it; name another suite with --suite, or give --experiment EXPERIMENT"
        )
    return entry_of(part.evals, suite, f"the evals of {side.experiment}"), list(examples.values())
