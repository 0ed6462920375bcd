"""What an experiment will do, checked as far as that goes before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from harness import preflight
from harness.asked import asked_suites
from harness.benchmarks_suite import check_lm_eval
from harness.cell_checks import CellCheck
from harness.config import DataConfig, ExperimentConfig, RankingConfig, RunConfig, TemplateConfig
from harness.confirmation import confirming_cells, read_confirmation
from harness.data.splits import data_fingerprint, load_splits
from harness.disk_plan import check_disk
from harness.errors import ConfigError
from harness.eval_config import EvalConfig
from harness.experiment_file import experiment_lines, find_experiment, line_of, load_experiment, resolve_files
from harness.gates import gate_metric, parse_gate
from harness.grid import Cell, expand, plan, reference_cell
from harness.library_fields import did_you_mean
from harness.models.endpoint import Endpoint
from harness.models.load import load_tokenizer, model_fingerprint
from harness.models.templates import template_key
from harness.predicted import check_rows, predicted_rows
from harness.predictions import load_predictions
from harness.records import CellResult, Example, TrainResult
from harness.resources import digest, file_digest
from harness.store import ExperimentFolder, experiment_folder, read_record
from harness.suite import chosen_scorers, load_suite, suite_examples
from harness.yaml_text import Location

M = TypeVar("M", bound=BaseModel)
# What of the training settings preflight looks at.
CHECKED_TRAINING = (
    "max_length", "packing", "packing_strategy", "padding_free", "assistant_only_loss", "completion_only_loss",
    "per_device_train_batch_size", "gradient_checkpointing", "optim",
)  # fmt: skip


class Plan(NamedTuple):
    """What an experiment will do."""

    config: ExperimentConfig
    cells: tuple[Cell, ...]
    references: tuple[Cell, ...]
    packs: tuple[tuple[str, ...], ...]
    folder: ExperimentFolder
    is_recorded: bool = False
    """Whether it comes from records: its data and its model may be elsewhere."""

    def everything(self) -> tuple[Cell, ...]:
        """References first: they take the least time and every finding is read against them."""
        return (*self.references, *self.cells)

    def brings_code(self) -> tuple[str, ...]:
        """Models whose own Python is run, for the file trusts them."""
        models = [row.config.model for row in self.everything() if row.reference is None or row.reference.url is None]
        trusted = [f"{m.name}@{m.revision or 'main'}" for m in models if m.trust_remote_code]
        return tuple(dict.fromkeys(trusted))


def plan_experiment(name: str, overrides: Sequence[str] = ()) -> Plan:
    """Every cell of an experiment, checked as far as that goes without its model.

    Raises: ConfigError: the file or any cell is wrong.
    """
    path = find_experiment(name)
    config = load_experiment(path, overrides)
    lines = experiment_lines(path)
    if "grid" in config.model_fields_set and not config.grid:
        raise ConfigError(
            f"{path}:{line_of(lines, ('grid',))}: grid is empty; list a field with its values or delete the section"
        )

    def where(location: Location) -> str:
        return f"{path}:{line_of(lines, location)}"

    if config.is_predictions_alone:
        return Plan(config, (), predicted_rows(config, where), (), experiment_folder(config.name))
    fingerprint = _fingerprints()
    cells = expand(config, path.parent, fingerprint, where)
    references = _references(config, cells, path.parent, fingerprint)
    return with_confirmation(Plan(config, cells, references, plan(cells), experiment_folder(config.name)))


def with_confirmation(made: Plan) -> Plan:
    """The plan with the cells that `harness run --confirm` added to it."""
    more = confirming_cells(made.cells, read_confirmation(made.folder), _fingerprints())
    cells = (*made.cells, *more)
    return made._replace(cells=cells, packs=plan(cells))


def plan_training(name: str, overrides: Sequence[str] = ()) -> Plan:
    """The same, of an experiment that has data and a model.

    Raises: ConfigError: the file or any cell is wrong, or its rows are predictions alone.
    """
    made = plan_experiment(name, overrides)
    if made.config.is_predictions_alone:
        raise ConfigError(
            f"{name}: there is no model and no data, for its rows are predictions alone; name another file"
        )
    return made


def _fingerprints() -> Callable[[RunConfig], str]:
    """Gives the digest of what a run reads; each model and dataset is read once, for many cells share them."""
    known: dict[str, str] = {}

    def once(section: M, read: Callable[[M], str]) -> str:
        key = f"{type(section).__name__} {section.model_dump_json()}"
        if key not in known:
            known[key] = read(section)
        return known[key]

    return lambda run: digest(
        [once(run.data, data_fingerprint), template_key(run.template), once(run.model, model_fingerprint)]
    )


def _references(
    config: ExperimentConfig, cells: Sequence[Cell], folder: Path, fingerprint: Callable[[RunConfig], str]
) -> tuple[Cell, ...]:
    """A row for every reference; those that ask the base have one for each base model that the cells start from."""
    bases = _base_runs(config, cells, folder)
    found = []
    for reference in config.references:
        if reference.kind in ("base", "few_shot"):
            for run in bases:
                name = reference.name if len(bases) == 1 else f"{reference.name}: {Path(run.model.name).name}"
                found.append(reference_cell(reference, name, run, fingerprint(run)))
            continue
        run = bases[0]
        if reference.model is not None and reference.url is None:
            own = {
                "name": reference.model,
                "revision": reference.revision,
                "trust_remote_code": reference.trust_remote_code,
            }
            # In the precision of the base: adapter and quantization stay.
            model = run.model.model_copy(update=own)
            run = run.model_copy(update={"model": model, "template": TemplateConfig(name="model")})
        # A file that isn't there is told by check_plan.
        answers = Path(reference.predictions) if reference.predictions else None
        content = file_digest(answers) if answers and answers.is_file() else ""
        found.append(reference_cell(reference, reference.name, run, digest([fingerprint(run), content])))
    return tuple(found)


def _base_runs(config: ExperimentConfig, cells: Sequence[Cell], folder: Path) -> list[RunConfig]:
    """How each base model that the cells start from is loaded untouched.

    It is asked through the experiment's own template, or through its cells' where the file states none, and is loaded in
    the precision of its cells.
    """
    by_base: dict[str, list[Cell]] = {}
    for cell in cells:
        by_base.setdefault(cell.base, []).append(cell)
    sections = {"template": dict(config.template)}
    resolve_files(sections, folder)
    found = []
    for group in by_base.values():
        first = group[0].config
        template = TemplateConfig.model_validate(sections["template"]) if config.template else first.template
        adapter = first.adapter if all(cell.config.adapter is not None for cell in group) else None
        # A base that fits quantized only must be asked so.
        quantization = first.quantization if all(c.config.quantization == first.quantization for c in group) else None
        found.append(
            first.model_copy(
                update={"template": template, "training": {}, "adapter": adapter, "quantization": quantization}
            )
        )
    return found


def check_plan(made: Plan, *, deep: bool) -> Mapping[str, CellCheck]:
    """Cell id -> what preflight finds; suites, ranking and the folder are checked too.

    Args:
        made: the plan.
        deep: also load tokenizers and model configs, from the Hub where they are there, and tokenize every row.

    Raises: HarnessError: a suite can't be loaded or asked, or the folder can't be written to.
    """
    _check_ranking(made.config.ranking, _metrics(made.config.evals, deep=deep))
    if made.config.is_predictions_alone:
        check_rows(made.references, made.config.evals)
    for reference in made.config.references:
        if reference.predictions is not None:
            load_predictions(Path(reference.predictions))
        if reference.url is not None:
            Endpoint(reference)
    if deep:
        made.folder.check_writable()
        for cell in made.references:
            if cell.reference is not None and cell.reference.kind == "model":
                load_tokenizer(cell.config, plain_rows=False)
    known: dict[str, CellCheck] = {}
    found: dict[str, CellCheck] = {}
    for cell in made.cells:
        # Cells that differ in what doesn't matter here (a learning rate, a seed) are checked once.
        config = cell.config
        checked = config.model_dump(mode="json", include={"model", "template", "data", "adapter", "quantization"})
        key = digest([checked, {name: config.training.get(name) for name in CHECKED_TRAINING}])
        if key not in known:
            known[key] = preflight.check_deep(cell, made.folder) if deep else preflight.check_light(cell)
        found[cell.id] = known[key].model_copy(
            update={"cell": cell.id, "name": cell.name, "steps": _steps(cell, known[key])}
        )
    return check_disk(made.config, {cell.id: cell for cell in made.cells}, found, made.folder)


def _metrics(evals: Sequence[EvalConfig], *, deep: bool) -> set[str]:
    """`suite.metric` of all that will be measured; of benchmarks `suite.` alone, for theirs are known only once they have run.

    Raises: HarnessError: a suite or one of its scorers can't be had, or the file that it asks can't be read.
    """
    metrics = set()
    for options in evals:
        if options.lm_eval:
            check_lm_eval(options, deep=deep)
            # A tag or a group is measured as its members, whose names only lm-evaluation-harness knows.
            metrics.add(f"{options.label}.")
            continue
        suite = load_suite(options.suite)
        metrics |= {f"{options.label}.{metric}" for metric in chosen_scorers(suite, options).names}
        if options.data is not None:
            suite_examples(suite, options, [])
    return metrics


def _steps(cell: Cell, check: CellCheck) -> int | None:
    return cell.config.planned_steps(check.rows) if check.rows is not None else None


def _check_ranking(ranking: RankingConfig, metrics: set[str]) -> None:
    """Raises: ConfigError: the criterion or a gate names something that no suite measures."""
    for text in ranking.gates:
        parse_gate(text)
    named = {text: gate_metric(text) for text in ranking.gates} | {"ranking.by": ranking.by}
    for where, metric in named.items():
        # The metric itself, one of its slices, or one of a benchmark.
        if metric and not any(metric == known or metric.startswith(f"{known.rstrip('.')}.") for known in metrics):
            raise ConfigError(
                f"{where}: {metric!r} is measured by no suite of evals; add its suite, or change ranking"
                f"{did_you_mean(metric, sorted(metrics))}"
            )


def check_tests(cells: Sequence[Cell]) -> None:
    """Raises: ConfigError: cells would be asked different test rows, so that they can't be compared."""
    tests = {tuple(example.model_dump_json() for example in _test_examples(cell.config.data)) for cell in cells}
    if len(tests) > 1:
        raise ConfigError(
            "the cells would be tested on different rows and can't be compared; set data.test to one file for all"
        )


def is_done(made: Plan, cell: Cell) -> bool:
    """Whether a finished result is there that answers to today's suites."""
    return made.folder.cell(cell.id).spec.exists() and is_evaluated(made, cell)


def is_evaluated(made: Plan, cell: Cell) -> bool:
    """The same of a result that may never have been part of a `harness run`, as that of predictions alone."""
    path = made.folder.cell(cell.id).result
    if not path.exists():
        return False
    result = read_record(path, CellResult)
    return result.status == "finished" and {(s.suite, s.digest) for s in result.suites} == _suite_digests(made, cell)


def check_weights(made: Plan, todo: Sequence[Cell]) -> None:
    """Raises: ConfigError: something new is asked of trained cells whose weights the policy for checkpoints has deleted."""
    gone = [cell.name for cell in todo if _lacks_weights(made, cell)]
    if gone:
        raise ConfigError(
            f"{gone[0]}{f' and {len(gone) - 1} more' if len(gone) > 1 else ''}: the weights were deleted once the cell was evaluated "
            "(checkpoints.keep: none), so no other suite can be asked of it; undo the change of evals, or delete the cell's folder to train it again"
        )


def _lacks_weights(made: Plan, cell: Cell) -> bool:
    folder = made.folder.cell(cell.id)
    record = folder.path / "train.json"
    if cell.seed is None or not (folder.result.exists() and record.exists()):
        return False
    if (folder.path / read_record(record, TrainResult).evaluated_checkpoint).is_dir():
        return False
    return not all(folder.suite_result(*suite).exists() for suite in _suite_digests(made, cell))


def _suite_digests(made: Plan, cell: Cell) -> set[tuple[str, str]]:
    test = () if made.config.is_predictions_alone else _test_examples(cell.config.data)
    asked = asked_suites(cell, made.config.evals, test)
    return {(item.options.label, item.digest) for item in asked}


@lru_cache(maxsize=8)
def _test_examples(data: DataConfig) -> tuple[Example, ...]:
    """Cells mostly share their data, which are then read once."""
    return tuple(row.example() for row in load_splits(data).test)


def trained(made: Plan) -> set[str]:
    """Ids of the cells whose training is done.

    Raises: ConfigError: there are none.
    """
    cells = {cell.id for cell in made.cells if (made.folder.cell(cell.id).path / "train.json").exists()}
    if not cells:
        raise ConfigError(f"experiment {made.config.name!r} has no trained cells; start it with `harness run`")
    return cells
