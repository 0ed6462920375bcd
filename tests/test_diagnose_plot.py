"""The drawing of a training: what is on it, that it needs no network, and that nothing of a log gets out of its place."""

import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.diagnose.cell import diagnose
from harness.diagnose.evidence import Evidence, Point, finding
from harness.diagnose.plot import write_plot
from harness.errors import ConfigError
from harness.records import Finding
from harness.reports.run_figure import RunCurves, run_chart
from harness.reports.run_marks import Band, Label, Mark, labels_layers

LOSS = [(step, 3 * math.exp(-step / 40) + 0.5) for step in range(1, 201)]
NOTHING = RunCurves([], [], [], [])


def everything(node: object) -> list[dict]:
    """All objects of a specification."""
    if isinstance(node, dict):
        return [node, *(item for value in node.values() for item in everything(value))]
    return [item for value in node for item in everything(value)] if isinstance(node, list) else []


def rows(spec: dict, field: str) -> list[dict]:
    return [item for item in everything(spec) if field in item and "step" in item]


def run(loss: Sequence[tuple[int, float]] = LOSS, **more: object) -> Evidence:
    points = [Point(step, value) for step, value in loss]
    evals = [Point(step, 1.0 + abs(step - 100) / 200) for step in range(0, 201, 20)]
    return Evidence(loss=points, grad_norm=[Point(p.step, 1.0) for p in points], eval_loss=evals, **more)


SPIKE = finding("loss_spike", "fired", "A spike.", "warning", evidence=["step 50: 9.0"])
EXPLOSION = finding(
    "gradient_explosion", "fired", "It exploded at step 70.", "error", advice="Set `max_grad_norm: 1.0`."
)


def page_of(tmp_path: Path, evidence: Evidence, findings: Sequence[Finding]) -> str:
    write_plot(evidence, findings, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def without_library(page: str) -> str:
    """The page without the text of the drawing library."""
    return re.sub(r"<script>.{100000,}?</script>", "<script></script>", page, flags=re.DOTALL)


def spec_of(page: str) -> dict:
    return json.loads(re.search(r'id="spec">(.*?)</script>', page, re.DOTALL)[1])


def test_findings_phases_and_the_best_step_are_on_the_chart(tmp_path: Path) -> None:
    spec = spec_of(page_of(tmp_path, run(), [SPIKE, EXPLOSION]))
    found = {(mark["step"], mark["found"]) for mark in rows(spec, "found")}
    assert found == {(70, "gradient_explosion"), (50, "spike"), (100, "best 1 at step 100")}
    assert {row["phase"] for row in rows(spec, "phase")} >= {"sharp drop"}
    assert {row["label"] for row in rows(spec, "label")} >= {"sharp drop", "gradient_explosion"}
    assert {row["of"] for row in rows(spec, "of")} == {
        "training loss, as logged",
        "training loss, smoothed",
        "eval loss",
    }


def test_the_page_needs_no_network_and_lists_every_check(tmp_path: Path) -> None:
    page = page_of(tmp_path, run(name="my run"), diagnose(run()))
    assert not re.findall(r"(?:src|href)=|url[(](?!#)|@import", without_library(page))
    assert "<h1>my run</h1>" in page
    assert "<svg" in page
    for check in diagnose(run()):
        assert f"<strong>{check.check}</strong>" in page


def test_worst_findings_come_first_with_their_colour_and_advice(tmp_path: Path) -> None:
    page = page_of(tmp_path, run(), [SPIKE, EXPLOSION])
    assert page.index('finding is-error"') < page.index('finding is-warning"')
    assert "Set <code>max_grad_norm: 1.0</code>." in page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x00\x1b[31m\ud800`<b>`"
    hostile = finding("loss_spike", "fired", bad, "error", advice=bad, evidence=[f"step 50: {bad}"])
    page = page_of(tmp_path, run(name=bad), [hostile])
    ours = without_library(page)
    assert "<script>alert" not in ours
    assert "<img" not in ours
    assert "<b>" not in ours
    assert ours.count("<script") == ours.count("</script>") == 3
    write_plot(run(name=bad), [hostile], tmp_path / "page.png")


def test_png_shows_chart_and_findings(tmp_path: Path) -> None:
    for name, findings in (("one.png", [SPIKE]), ("many.png", [SPIKE, EXPLOSION] * 10)):
        write_plot(run(), findings, tmp_path / name)
    sizes = {}
    for name in ("one.png", "many.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        sizes[name] = struct.unpack(">II", content[16:24])
    assert sizes["many.png"][1] > sizes["one.png"][1]


@pytest.mark.parametrize(
    "loss",
    [[], [(1, 2.0)], [(i, 0.0) for i in range(50)], [(i, math.nan) for i in range(50)], [(i, 10.0 ** (i % 300)) for i in range(400)], [(1, math.inf), (2, -1.0), (3, 0.0)]],
    ids=["none", "one", "zero", "nan", "huge", "mixed"],
)  # fmt: skip
def test_any_curve_can_be_drawn(tmp_path: Path, loss: list[tuple[int, float]]) -> None:
    found = Evidence(loss=[Point(*p) for p in loss], grad_norm=[Point(*p) for p in loss], eval_loss=[])
    for name in ("page.html", "page.png"):
        write_plot(found, [], tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_values_that_are_no_numbers_are_crosses_at_their_steps() -> None:
    spec = run_chart(NOTHING._replace(loss=[*LOSS[:50], (51, math.nan), (52, math.inf)]))
    assert [(row["step"], row["logged"]) for row in rows(spec, "logged")] == [(51, "nan"), (52, "inf")]


def test_a_long_curve_is_thinned_and_keeps_its_spike() -> None:
    loss = [(i, 1.0 + (i % 7) / 10) for i in range(100_000)]
    loss[54_321] = (54_321, 99.0)
    drawn = [row for row in rows(run_chart(NOTHING._replace(loss=loss)), "of") if "logged" in row["of"]]
    assert len(drawn) < 3000
    assert (54_321, 99.0) in [(row["step"], row["loss"]) for row in drawn]


def test_labels_that_would_cover_each_other_take_rows_and_turn_at_the_edge() -> None:
    labels = [Label(0, "sharp drop", "g"), Label(5, "stabilization", "g"), Label(500, "convergence", "g"), Label(998, "too late for this", "r")]  # fmt: skip
    spec = run_chart(NOTHING._replace(loss=LOSS), [Band("sharp drop", 1, 2)], [Mark(199, "stalled", "error")])
    assert {row["label"] for row in rows(spec, "label")} == {"sharp drop", "stalled"}
    layers = [layer.to_dict() for layer in labels_layers(labels, [0, 1000], "step:Q")]
    placed = {row["label"]: row["y"] for layer in layers for row in rows(layer, "label")}
    assert placed["sharp drop"] != placed["stabilization"]
    assert placed["sharp drop"] == placed["convergence"] == placed["too late for this"]
    assert [layer["mark"]["align"] for layer in layers] == ["left", "right"]


def test_a_plot_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.html or \.png"):
        write_plot(run(), [], tmp_path / "curves.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        write_plot(run(), [], tmp_path / "file" / "curves.png")


def test_diagnose_draws_what_it_found(tmp_path: Path) -> None:
    state = {"log_history": [{"step": step, "loss": loss} for step, loss in LOSS], "max_steps": 200}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    done = CliRunner().invoke(
        main, ["diagnose", str(tmp_path), "--plot", str(tmp_path / "c.html")], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert f"Plot: {tmp_path / 'c.html'}" in done.output
    assert "<svg" in (tmp_path / "c.html").read_text(encoding="utf-8")
