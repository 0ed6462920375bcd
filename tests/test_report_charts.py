"""Charts of the report: what they show, what they say, and that they can be drawn."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import ExperimentConfig, RankingConfig
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, Estimate, SplitSummary, TracePoint, TrainResult
from harness.reports.adherence_figure import adherence_rates
from harness.reports.charts import Chart, charts_of, drawn, write_static
from harness.reports.content import gather
from harness.reports.curves_figure import thinned
from harness.reports.drawing import drawn_svg
from harness.reports.scatter import Axis, Point, pareto, scatter
from harness.store import ExperimentFolder, write_lines
from tests.helpers import cell_result, coin, suite_result

RATES = [1e-4, 1e-3, 1e-2]


def trained(rank: int) -> TrainResult:
    split = SplitSummary(source="t", digest="d", rows_read=10, rows_used=10, truncated=0, dropped_unsupervised=0, tokens=1000, supervised_tokens=300)  # fmt: skip
    return TrainResult(
        steps=40, planned_steps=40, epochs=2.0, seconds=100.0 * rank, train_loss=0.1, best_step=20, best_eval_loss=0.2, eval_loss=0.3,
        checkpoints={"last": "checkpoint-40"}, splits={"train": split}, device="cuda:0", dtype="bfloat16", num_parameters=500,
        num_trainable_parameters=50 * rank, peak_memory_gib=1.0 + rank, settings={}, environment={},
    )  # fmt: skip


def adherence(p: float, seed: int) -> Any:
    suite = suite_result("form", {"all": coin(p, 60, seed)})
    rate = Estimate(value=p, low=p, high=p, n=30)
    return suite.model_copy(
        update={"kind": "template_adherence", "slice_metrics": {"all.json": rate, "all.dialog": rate}}
    )


def swept(name: str = "") -> list[CellResult]:
    """Three learning rates, two ranks, two seeds."""
    cells = []
    for i, rate in enumerate(RATES):
        for r in (4, 8):
            for seed in (0, 1):
                suites = (
                    suite_result("held_out", {"exact_match": coin(0.3 + 0.2 * i, 60, 10 * i + r + seed)}),
                    adherence(0.9 - 0.1 * i, seed),
                )
                group = f"learning_rate={rate:g},r={r}{name}"
                made = cell_result(f"{group},seed={seed}", *suites, group=group, seed=seed)
                place = {"training.learning_rate": rate, "adapter.r": r}
                cells.append(
                    made.model_copy(update={"cell": f"c{len(cells)}", "overrides": place, "train": trained(r)})
                )
    return cells  # fmt: skip


def charts(tmp_path: Path, cells: list[CellResult]) -> dict[str, Chart]:
    folder = ExperimentFolder(tmp_path)
    for cell in cells:
        points = [TracePoint(step=i, epoch=i / 20, seconds=i, values={"loss": 3.0 / i} | ({"eval_loss": 4.0 / i} if i % 10 == 0 else {})) for i in range(1, 41)]  # fmt: skip
        write_lines(folder.cell(cell.cell).trace, points)
    base = cell_result(
        "base", suite_result("held_out", {"exact_match": coin(0.1, 60, 99)}), adherence(0.2, 5), seed=None
    )
    ranking = rank("x", RankingConfig(gates=()), cells, [base], {})
    config = ExperimentConfig(
        name="x", model={"name": "m"}, data={"train": "t"}, grid={"training.learning_rate": RATES, "adapter.r": [4, 8]},
        ranking=RankingConfig(secondary=("form.all",)),
    )  # fmt: skip
    ranking = ranking.model_copy(update={"secondary": ("form.all",)})
    return charts_of(gather(config, folder, ranking, cells, [base], {}))


def data_of(chart: Chart) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = chart.spec["datasets"]
    return found


def test_a_swept_experiment_has_every_chart(tmp_path: Path) -> None:
    drawn = charts(tmp_path, swept())
    assert list(drawn) == [
        "ranking", "tradeoff", "effects", "effects-2", "effect_pairs", "curves", "adherence", "cost", "cost-2",
    ]  # fmt: skip
    assert all(chart.id == name and chart.alt and chart.title for name, chart in drawn.items())


def test_what_has_nothing_to_show_is_absent(tmp_path: Path) -> None:
    cell = cell_result("one", suite_result("held_out", {"exact_match": coin(0.5, 40, 1)}))
    ranking = rank("x", RankingConfig(gates=()), [cell], [], {})
    config = ExperimentConfig(name="x", model={"name": "m"}, data={"train": "t"})
    assert list(charts_of(gather(config, ExperimentFolder(tmp_path), ranking, [cell], [], {}))) == ["ranking"]


def test_ranking_shows_simultaneous_intervals_and_possible_ranks(tmp_path: Path) -> None:
    cells = swept()
    ranking = rank("x", RankingConfig(gates=()), cells, [], {})
    wide = Estimate(value=0.5, low=0.25, high=0.75, n=60)
    rows = (
        ranking.rows[0].model_copy(update={"simultaneous_interval": wide, "rank_interval": (1, 3)}),
        *ranking.rows[1:],
    )
    changed = Ranking.model_validate(ranking.model_dump() | {"rows": [row.model_dump() for row in rows]})
    config = ExperimentConfig(name="x", model={"name": "m"}, data={"train": "t"})
    shown = data_of(charts_of(gather(config, ExperimentFolder(tmp_path), changed, cells, [], {}))["ranking"])["rows"]
    assert (shown[0]["low"], shown[0]["high"], shown[0]["ranks"]) == (0.25, 0.75, "1–3")


def test_numbers_are_in_the_words(tmp_path: Path) -> None:
    drawn = charts(tmp_path, swept())
    assert "best at 0.01" in drawn["effects"].alt
    assert "12 cells" in drawn["curves"].alt
    assert "Reference base" in drawn["ranking"].alt
    assert "Lowest: base" in drawn["adherence"].alt


def test_learning_rates_stand_on_a_logarithmic_axis(tmp_path: Path) -> None:
    layer = charts(tmp_path, swept())["effects"].spec["layer"][0]
    assert layer["encoding"]["x"]["scale"]["type"] == "log"
    assert layer["encoding"]["x"]["axis"]["values"] == RATES


def test_every_chart_is_drawn_though_names_are_hostile(tmp_path: Path) -> None:
    shown = charts(tmp_path, swept("\x00\x1b</script><img src=x onerror=alert(1)>\"'${\n"))
    for chart in shown.values():
        svg = str(drawn_svg(chart.spec))
        assert svg.startswith("<svg")
        assert "<img" not in svg


def test_static_pictures_are_written_on_white(tmp_path: Path) -> None:
    shown = charts(tmp_path, swept())
    files = write_static(drawn({"cost": shown["cost"]}), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == ["charts/cost.svg", "charts/cost.png"]
    assert 'fill="white"' in files[0].read_text()
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_spike_survives_thinning() -> None:
    points = [(step, 1.0) for step in range(5000)]
    points[3210] = (3210, 50.0)
    kept = thinned(points, 100)
    assert (3210, 50.0) in kept
    assert len(kept) <= 102


def test_many_cells_are_coloured_by_a_swept_field_and_stay_small(tmp_path: Path) -> None:
    cells = [c.model_copy(update={"cell": f"{c.cell}-{n}", "name": f"{c.name}-{n}"}) for c in swept() for n in range(5)]
    drawn = charts(tmp_path, cells)["curves"]
    assert {row["key"] for row in data_of(drawn)["curves"]} == {"0.0001", "0.001", "0.01"}
    assert len(json.dumps(drawn.spec)) < 150_000


def test_pareto_front_by_hand() -> None:
    assert pareto([(1, 5), (2, 4), (2, 3), (3, 1), (1, 5)]) == [True, True, False, True, True]


def test_labels_that_would_overlap_are_left_out() -> None:
    points = [Point("a", "a long label", "Pareto front", 1.0, 1.0), Point("b", "a long label", "others", 1.0, 1.0), Point("c", "c", "others", 2.0, 0.0)]  # fmt: skip
    shown = {row["name"]: row["place"] for row in scatter(points, Axis("x"), Axis("y"))["datasets"]["rows"]}
    assert shown["a"]
    assert not shown["b"]
    assert shown["c"]


def test_reference_far_away_leaves_room_for_the_others() -> None:
    points = [Point(str(i), "", "others", 0.9 + i / 100, 0.9) for i in range(5)]
    spec = scatter([*points, Point("base", "base", "reference", 0.0, 0.9)], Axis("x"), Axis("y"))
    base = next(row for row in spec["datasets"]["rows"] if row["name"] == "base")
    assert base["x"] == 0.0
    assert base["at_x"] > 0.8
    assert base["label"] == "base (far off)"


@pytest.mark.parametrize("first", [0, 1])
def test_adherence_lists_the_worst_first_whatever_the_order(first: int) -> None:
    cells = [cell_result("good", adherence(1.0, 1)), cell_result("bad", adherence(0.4, 2))]
    rates = adherence_rates([cells[first], cells[1 - first]], "form")
    assert [rate.name for rate in rates] == ["bad", "bad", "good", "good"]
    assert rates[0].mean == pytest.approx(0.4)
