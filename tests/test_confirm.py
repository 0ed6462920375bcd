"""`harness run --confirm`: more seeds for the best set, and for it alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.collect import collect, rank_experiment
from harness.config import RankingConfig
from harness.confirmation import Choice, Confirmation, choose
from harness.errors import ConfigError
from harness.grid import Cell
from harness.plan import Plan, plan_experiment, with_confirmation
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult
from harness.store import read_record, write_record
from tests.conftest import MINIMAL
from tests.helpers import cell_result, suite_result

GRID = MINIMAL + "variants: {one: {}, two: {training: {weight_decay: 0.1}}}\n"
N = 40


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def ranking_of(made: Plan, scores: dict[str, list[float]], *, gates: tuple[str, ...] = ()) -> Ranking:
    """The ranking of a plan's cells, whose configurations have these scores whatever their seed."""
    results = []
    for cell in made.cells:
        stem = cell.name.partition(",seed=")[0]
        if stem in scores:
            made_up = cell_result(cell.name, suite_result("held_out", {"exact_match": scores[stem]}), group=cell.group)
            results.append(made_up.model_copy(update={"cell": cell.id, "seed": cell.seed}))
    return rank("small", RankingConfig(gates=gates), results, [], {})


def confirm(made: Plan, choice: Choice | None) -> Plan:
    assert choice is not None
    write_record(made.folder.confirmation, Confirmation(choices=(choice,)))
    return with_confirmation(made)


def seeds(cells: tuple[Cell, ...]) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {}
    for cell in cells:
        found.setdefault(cell.group, []).append(cell.seed)
    return found


ONE_IS_BEST = {"one": [1.0] * N, "two": [0.0] * (N - 1) + [1.0]}
A_TIE = {"one": [1.0, 0.0] * (N // 2), "two": [1.0, 0.0] * (N // 2)}


def test_best_set_alone_gets_the_smallest_unused_seeds(write: Callable[[str, str], Path]) -> None:
    made = plan_experiment(str(write(GRID + "seeds: [1, 5]\n", "a.yaml")))
    choice = choose(made.cells, ranking_of(made, ONE_IS_BEST), RankingConfig(confirm_seeds=5))
    best = made.cells[0].group
    assert choice is not None
    assert choice.seeds == {best: (0, 2, 3)}
    assert "best set of 1 of 2 by held_out.exact_match" in choice.why
    grown = confirm(made, choice)
    assert seeds(grown.cells) == {best: [1, 5, 0, 2, 3], made.cells[2].group: [1, 5]}
    assert [cell.name for cell in grown.cells[4:]] == ["one,seed=0", "one,seed=2", "one,seed=3"]


def test_every_tied_configuration_is_confirmed(write: Callable[[str, str], Path]) -> None:
    made = plan_experiment(str(write(GRID, "a.yaml")))
    choice = choose(made.cells, ranking_of(made, A_TIE), RankingConfig(confirm_seeds=3))
    assert choice is not None
    assert choice.seeds == {cell.group: (1, 2) for cell in made.cells}


def test_confirming_cells_are_those_that_the_file_would_make(write: Callable[[str, str], Path]) -> None:
    """So that seeds that are listed later are not trained again."""
    made = plan_experiment(str(write(GRID, "a.yaml")))
    grown = confirm(made, choose(made.cells, ranking_of(made, ONE_IS_BEST), RankingConfig(confirm_seeds=3)))
    listed = plan_experiment(str(write(GRID + "seeds: [0, 1, 2]\n", "b.yaml")))
    assert {cell.id for cell in grown.cells} < {cell.id for cell in listed.cells}
    assert len(listed.cells) == 6


def test_later_commands_see_the_cells_and_a_changed_configuration_drops_them(write: Callable[[str, str], Path]) -> None:
    path = write(GRID, "a.yaml")
    made = plan_experiment(str(path))
    confirm(made, choose(made.cells, ranking_of(made, ONE_IS_BEST), RankingConfig(confirm_seeds=3)))
    planned = json.loads(harness("plan", "a.yaml", "--json").stdout)
    assert [cell["name"] for cell in planned["cells"]] == ["one", "two", "one,seed=1", "one,seed=2"]
    assert len(planned["packs"]) == 4
    changed = write(GRID.replace("1e-3", "2e-3"), "a.yaml")
    assert [cell.name for cell in plan_experiment(str(changed)).cells] == ["one", "two"]


def test_complete_best_set_is_left_alone(write: Callable[[str, str], Path]) -> None:
    made = plan_experiment(str(write(GRID, "a.yaml")))
    config = RankingConfig(confirm_seeds=3)
    grown = confirm(made, choose(made.cells, ranking_of(made, ONE_IS_BEST), config))
    again = ranking_of(grown, ONE_IS_BEST)
    assert [row.seed_count for row in again.rows] == [3, 1]
    assert choose(grown.cells, again, config) is None


def test_no_best_set_is_one_sentence(write: Callable[[str, str], Path]) -> None:
    made = plan_experiment(str(write(GRID, "a.yaml")))
    ranking = ranking_of(made, ONE_IS_BEST, gates=("held_out.exact_match > 2",))
    with pytest.raises(ConfigError, match="no configuration passed the gates, so there is no best set to confirm"):
        choose(made.cells, ranking, RankingConfig())


TINY = """\
name: tiny
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 24}
training:
  learning_rate: 2e-3
  max_steps: 2
  per_device_train_batch_size: 4
  max_length: 256
  gradient_checkpointing: false
variants:
  good: {}
  broken: {training: {learning_rate: 1e38, max_grad_norm: 0.0, warmup_steps: 0, lr_scheduler_type: constant}}
evals: [{suite: held_out, limit: 8, max_new_tokens: 4}]
ranking: {by: held_out.bits_per_byte, gates: [], confirm_seeds: 2}
launch: {workers: 2}
tracking: {system_metrics: false}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("confirm")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = harness("run", "tiny.yaml", "--confirm")
        assert done.exit_code == 1, done.output
        assert "more seeds for what is in the best set of 1 of 1" in done.stderr
        yield folder


def results(folder: Path) -> dict[str, Path]:
    paths = folder.glob("mlruns/harness/tiny/cells/*/result.json")
    return {read_record(path, CellResult).name: path for path in paths}


def test_run_confirm_trains_only_what_is_missing(ran: Path) -> None:
    assert set(results(ran)) == {"base", "good", "broken", "good,seed=1"}
    ranking = json.loads(harness("rank", "tiny.yaml", "--json").stdout)
    assert [(row["name"], row["seed_count"]) for row in ranking["rows"]] == [("good", 2)]
    # A training that failed is not tried again for the sake of others.
    assert (results(ran)["broken"].parent / "log.txt").read_text().count("failed while training") == 1


def test_a_second_confirm_does_nothing(ran: Path) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in results(ran).items() if name != "broken"}
    fixed = TINY.replace("  broken:", "  # broken:")
    (ran / "fixed.yaml").write_text(fixed)
    done = harness("run", "fixed.yaml", "--confirm")
    assert done.exit_code == 0, done.output
    assert "there is nothing to confirm" in done.stderr
    assert {name: path.stat().st_mtime_ns for name, path in results(ran).items() if name != "broken"} == before


def test_records_of_real_trainings_rank_the_same_elsewhere(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.recorded import find_plan

    made = plan_experiment("fixed.yaml" if Path("fixed.yaml").exists() else "tiny.yaml")
    here = rank_experiment(made, collect(made))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{ran}/mlflow.db")
    found = find_plan("tiny")
    assert rank_experiment(found, collect(found)) == here
    check = found.folder.cell(found.cells[0].id).check.read_text()
    assert found.folder.data_report(json.loads(check)["data_report"]).exists()
    assert str(ran) not in check
