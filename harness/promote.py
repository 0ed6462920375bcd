"""A trained cell as a version in the model registry, with the evidence for it."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from harness.collect import collect, rank_experiment
from harness.config import TrackingConfig, tracking_uri
from harness.configurations import configuration_name
from harness.errors import ConfigError
from harness.export import load_trained
from harness.grid import CellSpec
from harness.markdown import escaped
from harness.model_card import card_text, subject_of
from harness.ranking import Ranking
from harness.recorded import recorded_plan
from harness.records import CellResult, Generation, Record, warning_names
from harness.results import ending
from harness.secrets import without_password
from harness.store import ExperimentFolder, experiment_folder, known_experiments, read_lines, read_record
from harness.targets import FoundCell, find_cell, training_of
from harness.tracking.connection import connect
from harness.tracking.notes import evidence, row_of, whole_lines
from harness.tracking.registry import Described, Registered, check_names, load_components, register, set_alias

if TYPE_CHECKING:
    from harness.models.same_answers import Sameness

NUM_CHECKED = 8
MAX_DESCRIPTION = 5000


class Promoted(Record):
    """What was registered."""

    model: str
    version: str
    alias: str
    uri: str
    """For `mlflow.transformers.load_model`."""
    cell: str
    name: str
    """Of the cell."""
    chosen: str
    """Why this seed, where the configuration has several; else empty."""
    asked: int
    """Recorded prompts that the registered model was asked again."""
    same: int
    """Of them: answered word for word as in the evaluation."""


class _Chosen(NamedTuple):
    found: FoundCell
    reason: str


def promote(target: str, name: str, *, alias: str, force: bool) -> Promoted:
    """Registers the evaluated checkpoint of a cell, an adapter merged into its base, and loads it back.

    Args:
        target: cell id, name or MLflow run id; or the name of a configuration with several seeds.
        name: of the registered model.
        alias: that then points at it.
        force: register what the gates exclude.

    Raises: HarnessError: there is no such trained cell, it isn't ranked, or MLflow can't take it.
    """
    check_names(name, alias)
    chosen = _choose(target)
    found, folder = chosen.found, ExperimentFolder(chosen.found.folder.path.parent.parent)
    if found.result.status == "finished":
        training_of(found.result)
    made = recorded_plan(folder)
    ranking = rank_experiment(made, collect(made))
    refusal = _refusal(ranking, found.result)
    if refusal and not force:
        raise ConfigError(
            f"{found.result.name}: {refusal}; choose another run, or register it all the same with --force"
        )
    config = read_record(found.folder.spec, CellSpec).cell.config
    loaded = load_trained(found, config, merge=config.adapter is not None)
    connect(_uri(made.config.tracking), made.config.name)
    described = _described(found, ranking, refusal, chosen.reason)
    registered = register(found.result.mlflow_run_id, loaded.model, loaded.tokenizer, described, name)
    del loaded
    checked = _check(found, ranking, registered)
    note = f"Loaded back and asked {checked.asked} prompts of the evaluation: {checked.same} answered word for word the same."
    set_alias(registered, alias, whole_lines([described.description, "", note], MAX_DESCRIPTION))
    return Promoted(
        model=name, version=registered.version, alias=alias, uri=f"models:/{name}@{alias}", cell=found.result.cell,
        name=found.result.name, chosen=chosen.reason, asked=checked.asked, same=checked.same,
    )  # fmt: skip


def _uri(config: TrackingConfig) -> str | None:
    """The store that the experiment was logged to; one with a password is known from the environment alone."""
    stated = (
        config.uri if config.uri == without_password(config.uri or "") and "***@" not in (config.uri or "") else None
    )
    return tracking_uri(TrackingConfig(uri=stated))


def _choose(target: str) -> _Chosen:
    """The cell that is meant; of a configuration the seed with the lowest validation loss."""
    seeds = [result for result in _results() if configuration_name(result) == target != result.name]
    trained = [result for result in seeds if result.train is not None]
    if not trained:
        return _Chosen(find_cell(target), "")
    if len({result.group for result in trained}) > 1:
        names = ", ".join(sorted(result.cell for result in trained))
        raise ConfigError(f"{target}: several configurations have this name; give one of their cells: {names}")
    best = min(trained, key=_validation_loss)
    reason = f"seed {best.seed} of {len(trained)}, which has the lowest validation loss"
    return _Chosen(find_cell(best.cell), reason)


def _validation_loss(result: CellResult) -> tuple[float, int]:
    train = result.train
    assert train is not None, "only trained cells are compared"
    loss = train.best_eval_loss if train.evaluated == "best" else train.eval_loss
    return loss if isinstance(loss, float) else float("inf"), result.seed or 0


def _results() -> Iterator[CellResult]:
    for name in known_experiments():
        for path in experiment_folder(name).path.glob("cells/*/result.json"):
            yield read_record(path, CellResult)


def _refusal(ranking: Ranking, result: CellResult) -> str:
    """Why a cell must not be used without a second thought; empty where nothing speaks against it."""
    if result.status != "finished":
        return f"it {ending(result)}"
    if row_of(ranking, result.cell) is not None:
        return ""
    reason = next(
        (item.reason for item in ranking.excluded if item.cell == result.cell), "the ranking has no row of it"
    )
    return f"it is not ranked ({reason.rstrip('.')})"


def _described(found: FoundCell, ranking: Ranking, refusal: str, chosen: str) -> Described:
    from huggingface_hub import ModelCard

    result = found.result
    row = row_of(ranking, result.cell)
    lines = [f"{escaped(result.name)} of the experiment {escaped(ranking.experiment)}, cell `{result.cell}`.", ""]
    if refusal:
        lines += [f"**Registered with --force although {escaped(refusal)}.**", ""]
    if row is not None:
        lines += [f"- {line}" for line in evidence(ranking, row)]
    lines.append(f"- warning signs: {warning_names(found.findings) or 'none'}")
    lines += [f"- {chosen}"] if chosen else []
    lines += ["", *(escaped(caveat) for caveat in ranking.caveats)]
    lines += ["", f"MLflow run `{result.mlflow_run_id}`; the report is in the run `{ranking.experiment} (report)`."]
    tags = {
        "harness.experiment": ranking.experiment,
        "harness.cell": result.cell,
        "harness.run_id": result.mlflow_run_id,
        "harness.criterion": ranking.criterion,
        "harness.warnings": warning_names(found.findings) or "none",
        "harness.rank": str(row.rank) if row else "not ranked",
        "harness.in_best_set": str(row is not None and row.in_best_set).lower(),
        "harness.forced": str(bool(refusal)).lower(),
    }
    value = result.metrics_with(ranking.criterion).get(ranking.criterion)
    if value is not None:
        tags["harness.value"] = json.dumps(value.value)
    params = {"cell": result.cell, "step": str(result.train.evaluated_step if result.train else "")}
    card = ModelCard(card_text(subject_of(found), merged=True))
    return Described(f"{result.name}-promoted", whole_lines(lines, MAX_DESCRIPTION - 300), tags, params, card)


def _check(found: FoundCell, ranking: Ranking, registered: Registered) -> "Sameness":
    """Asks the registered model what the cell was asked, as far as it was asked greedily."""
    from harness.models.same_answers import Sameness, same_answers

    evals = read_record(found.folder.spec, CellSpec).evals
    options = {item.label: item for item in evals if item.temperature == 0 and not item.lm_eval}
    suites = [suite for suite in found.result.suites if suite.suite in options]
    suites.sort(key=lambda suite: not ranking.criterion.startswith(f"{suite.suite}."))
    for suite in suites:
        path = found.folder.generations(suite.suite, suite.digest)
        if path.exists():
            answered = (given for given in read_lines(path, Generation) if given.is_answered)
            recorded = list(islice(answered, NUM_CHECKED))
            parts = load_components(registered)
            return same_answers(parts["model"], parts["tokenizer"], recorded, options[suite.suite].max_new_tokens)
    return Sameness(0, 0)
