"""The Python API: what it gives, and that its page of the docs works as it stands."""

import multiprocessing.spawn
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from harness.asked import asked_suites
from harness.data.splits import load_splits
from harness.errors import ConfigError
from harness.evaluate import evaluate
from harness.grid import Cell, CellSpec
from harness.models.respondent import Sampling
from harness.plan import Plan, plan_experiment
from harness.recorded import write_plan
from harness.records import CellResult, Generation, TracePoint
from harness.store import append_lines, write_record

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


class Parrot:
    """Answers a share of the examples right, by a hash of nothing but their number."""

    control_tokens: tuple[str, ...] = ()

    def __init__(self, every: int) -> None:
        self._every = every

    def generations(self, examples, *, as_text: bool, sampling: Sampling) -> list[tuple[Generation, ...]]:
        return [(self._answer(example, number),) for number, example in enumerate(examples)]

    def _answer(self, example, number: int) -> Generation:
        text = "wrong" if number % self._every == 0 else example.reference
        return Generation(
            example_id=example.id, prompt=example.plain_prompt, text=text, stop_reason="end_of_turn", prompt_tokens=3,
            completion_tokens=4,
        )  # fmt: skip


def finish(made: Plan, cell: Cell, every: int) -> None:
    """Leaves in a cell's folder what a finished cell leaves, but for its training."""
    folder = made.folder.cell(cell.id)
    test = [row.example() for row in load_splits(cell.config.data).test]
    suites = tuple(
        evaluate(asked.suite, asked.options, asked.examples, Parrot(every), folder)
        for asked in asked_suites(cell, made.config.evals, test)
        if asked.suite is not None
    )
    write_record(
        folder.spec,
        CellSpec(
            cell=cell, experiment=made.config.name, evals=made.config.evals, parent_run_id="", system_metrics=False, num_threads=1
        ),
    )  # fmt: skip
    points = [TracePoint(step=step, epoch=step, seconds=1.0, values={"loss": 2 / step, "eval_loss": 3 / step}) for step in (1, 2, 3)]  # fmt: skip
    append_lines(folder.trace, [*points, TracePoint(step=4, epoch=4, seconds=2.0, values={"loss": "nan"})])
    write_record(
        folder.result,
        CellResult(
            cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides,
            status="finished", suites=suites, reference=cell.reference.kind if cell.reference else None,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder in which the quickstart is done, by cells that need no training."""
    path = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        made = plan_experiment("quickstart")
        write_plan(made)
        for number, cell in enumerate(made.everything()):
            finish(made, cell, every=2 + number)
        yield path


def test_examples_of_the_docs_run(folder: Path) -> None:
    variables: dict[str, object] = {}
    # In order: a later block uses what the ones before it made.
    for number, block in enumerate(BLOCKS, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), variables)


def test_frames_of_an_experiment_hold_every_cell(folder: Path) -> None:
    made, results = plan_experiment("quickstart"), harness.load("quickstart")
    assert set(results.runs["name"]) == {cell.name for cell in made.everything()}
    assert results.runs.set_index("name").loc["base", "kind"] == "base"
    curves = results.curves.query("name == 'lora' and metric == 'loss'")
    assert curves["value"].tolist()[:3] == [2, 1, pytest.approx(2 / 3)]
    assert curves["value"].isna().tolist() == [False, False, False, True]
    assert results.findings.groupby("name").size().nunique() == 1


def test_scores_of_a_cell_average_to_its_metric(folder: Path) -> None:
    results = harness.load("quickstart")
    means = results.scores.query("suite == 'held_out' and metric == 'exact_match'").groupby("name")["score"].mean()
    stated = results.runs.set_index("name")["held_out.exact_match"]
    assert means.to_dict() == pytest.approx(stated.to_dict())
    assert len(results.generations.query("suite == 'held_out' and name == 'lora'")) == len(
        results.scores.query("suite == 'held_out' and metric == 'exact_match' and name == 'lora'")
    )


def test_ranking_says_what_the_record_says(folder: Path) -> None:
    ranked = harness.rank("quickstart", gates=[])
    assert ranked.frame["name"].tolist() == [row.name for row in ranked.ranking.rows]
    assert ranked.frame["rank_low"].is_monotonic_increasing
    assert set(ranked.best) == set(ranked.frame[ranked.frame["in_best_set"]]["name"])
    assert ranked.references["name"].tolist() == ["base"]


def test_other_gates_and_criterion_are_those_of_the_ranking(folder: Path) -> None:
    gate = "held_out.exact_match >= 2"
    ranked = harness.rank("quickstart", by="held_out.exact_match", gates=[gate])
    assert (len(ranked.frame), len(ranked.excluded), ranked.best) == (0, 6, ())
    assert ranked.ranking.gates == (gate,)


def test_notebooks_show_tables_with_escaped_names(folder: Path) -> None:
    results = harness.load("quickstart")
    results.runs.loc[0, "name"] = "<script>"
    shown = [
        harness.rank("quickstart")._repr_html_(),
        results._repr_html_(),
        harness.report("quickstart")._repr_html_(),
    ]
    assert all("<script>" not in text for text in shown)
    assert "&lt;script&gt;" in shown[1]


def test_mistakes_are_the_errors_of_the_command_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such experiment"):
        harness.load("quickstrat")
    with pytest.raises(ConfigError, match="was not measured"):
        harness.rank("quickstart", by="held_out.exact_mach")


def test_workers_do_not_import_the_script_that_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.api import _without_main_script

    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    named = {"init_main_from_path", "init_main_from_name"}
    assert named & multiprocessing.spawn.get_preparation_data("x").keys()
    with _without_main_script():
        assert not named & multiprocessing.spawn.get_preparation_data("x").keys()
    assert sys.modules["__main__"].__file__ == __file__


def test_functions_are_known_without_importing_anything() -> None:
    code = (
        "import harness, sys; before = [m for m in sys.modules if m.startswith('harness.')]; "
        "assert set(harness.__all__) <= set(dir(harness)); harness.rank; "
        "print(before, [m for m in ('torch', 'mlflow', 'pandas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_unknown_attributes_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ranks'"):
        harness.ranks  # noqa: B018
