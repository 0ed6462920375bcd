"""What the report chooses to say: answer, next steps, grouped findings, a bounded choice of generations."""

import json
import re
from pathlib import Path

import pytest

from harness.config import ExperimentConfig
from harness.ranking import Ranking, RankingRow
from harness.records import Estimate, Finding, Generation
from harness.reports.answers import MAX_EXAMPLES, Browser, as_island, browse, chosen_examples
from harness.reports.decision import answer_sentence, facts, next_steps
from harness.reports.grouped import signs, tallies
from harness.reports.markdown import safe
from harness.reports.page import duration
from harness.reports.tables import adherence_tables, split_rows
from harness.reports.visible import cut, cut_front, some, visible
from harness.store import ExperimentFolder, write_lines
from tests.helpers import cell_result, coin, suite_result
from tests.reported import made_cell

CONFIG = ExperimentConfig(name="mine", model={"name": "m"}, data={"train": "t"})


def estimate(value: float, low: float, high: float, n: int = 200) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=n)


def row(rank: int, name: str, value: float, **changes: object) -> RankingRow:
    fields: dict[str, object] = {
        "rank": rank, "rank_interval": (rank, rank), "in_best_set": rank == 1, "cell": f"id-{name}", "cells": (f"id-{name}",),
        "name": name, "seed_count": 3, "mlflow_run_ids": ("r",), "findings": (), "train_seconds": 60.0,
        "metrics": {"held_out.exact_match": estimate(value, value - 0.05, value + 0.05)}, **changes,
    }  # fmt: skip
    return RankingRow.model_validate(fields)


def ranking(*rows: RankingRow, **changes: object) -> Ranking:
    fields: dict[str, object] = {
        "experiment": "mine", "criterion": "held_out.exact_match", "gates": (), "rows": rows, "excluded": (), "references": (),
        "num_examples": 200, "minimum_detectable_difference": 0.04, "caveats": (), **changes,
    }  # fmt: skip
    return Ranking.model_validate(fields)


def fired(check: str, severity: str = "warning", **changes: object) -> Finding:
    fields = {"check": check, "outcome": "fired", "severity": severity, "message": f"{check}!", **changes}
    return Finding.model_validate(fields)


def test_single_winner_is_named_with_its_uncertainty() -> None:
    best = row(1, "a", 0.8, difference_to_base=estimate(0.3, 0.2, 0.4))
    sentence = answer_sentence(ranking(best, row(2, "b", 0.6), row(3, "c", 0.5)))
    assert sentence == (
        "a is best: better than each of the 2 others (held_out.exact_match 0.800 [0.750, 0.850], n = 200, 3 seeds; "
        "+0.300 [+0.200, +0.400] against the base)."
    )


def test_confirmed_number_is_the_published_one() -> None:
    found = ranking(row(1, "a", 0.8, confirmed=estimate(0.77, 0.7, 0.84, n=90)), row(2, "b", 0.6))
    assert "0.770 [0.700, 0.840] on 90 examples that took no part in choosing" in answer_sentence(found)
    assert facts(found)[0].label == "held_out.exact_match, confirmed"


def test_tie_is_told_as_a_tie_and_names_what_orders_it() -> None:
    second = row(2, "b", 0.82, in_best_set=True, rank_interval=(1, 2))
    sentence = answer_sentence(ranking(row(1, "a", 0.8, rank_interval=(1, 2)), second))
    assert sentence.startswith(
        "a and b can't be told apart; a comes first by fewer warning signs, lower cost and size ("
    )
    higher = answer_sentence(ranking(row(1, "a", 0.9, rank_interval=(1, 2)), second))
    assert "a has the highest value" in higher


def test_lead_over_the_runner_up_is_seen_from_the_winner() -> None:
    second = row(2, "b", 0.6, difference_to_best=estimate(-0.2, -0.3, -0.1))
    (lead,) = [fact for fact in facts(ranking(row(1, "a", 0.8), second)) if fact.label == "against the runner-up"]
    assert lead.value == "+0.200 [+0.100, +0.300]"
    assert "leaves out zero" in lead.note


def test_next_steps_follow_from_what_is_unsure() -> None:
    tied = [row(1, "a", 0.8, rank_interval=(1, 2)), row(2, "b", 0.79, in_best_set=True, train_seconds=30.0)]
    told = next_steps(CONFIG, ranking(*tied), [])
    assert [step.command for step in told] == [
        "harness run mine.yaml --confirm", "", "", "harness promote id-a --as mine",
    ]  # fmt: skip
    assert "0.040" in told[1].text
    assert told[1].text.endswith("take the cheapest of the best set, b.")
    assert "confirm_share" in told[2].text


def test_sure_and_confirmed_winner_needs_nothing_but_promotion() -> None:
    sure = ranking(row(1, "a", 0.8), row(2, "b", 0.5), num_confirm_examples=100)
    assert [step.command for step in next_steps(CONFIG, sure, [])] == ["harness promote id-a --as mine"]


def test_warned_winner_is_not_promoted_unread() -> None:
    warned = row(1, "a", 0.8, findings=(fired("overfitting"),))
    assert "Read the warning signs of a (overfitting) first" in next_steps(CONFIG, ranking(warned), [])[-1].text


def test_failed_cells_come_first_among_the_steps() -> None:
    steps = next_steps(CONFIG, ranking(row(1, "a", 0.8)), [cell_result("broken", status="failed")])
    assert steps[0].command == "harness run mine.yaml"


def test_findings_are_grouped_by_check_the_worst_first() -> None:
    findings = {
        "a": (fired("overfitting"), fired("forgetting", "error"), Finding(check="diverged", outcome="clear", severity="error", message="")),
        "b": (fired("overfitting", "error", advice="Stop."), fired("gap", "info")),
        "c": (fired("gap", "info"),),
    }  # fmt: skip
    found = signs(findings)
    assert [(sign.check, sign.severity, len(sign.found)) for sign in found] == [
        ("overfitting", "error", 2), ("forgetting", "error", 1), ("gap", "info", 2),
    ]  # fmt: skip
    assert [name for name, _ in found[0].found] == ["b", "a"]
    assert {tally.check: tally.counts["fired"] for tally in tallies(findings)} == {"overfitting": 2, "forgetting": 1, "diverged": 0, "gap": 2}  # fmt: skip


def test_most_divided_examples_come_first_then_the_worst_of_every_run() -> None:
    scores = [
        {"all": 1.0, "split": 1.0, "none": 0.0, "half": 0.5},
        {"all": 1.0, "split": 0.0, "none": 0.0, "half": 0.0},
    ]
    assert chosen_examples(scores, 1.0, 3) == ["split", "half", "none"]
    assert chosen_examples(scores, -1.0, 4)[2] == "all"


def test_equal_answers_share_an_entry_and_texts_are_bounded(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    suite = suite_result("held_out", {"exact_match": coin(0.5, 300, 1)})
    runs = [cell_result(f"run {i}", suite) for i in range(150)]
    for run in runs:
        lines = [
            Generation(example_id=f"e{i}", prompt="p" * 9000, text="t" * 9000, stop_reason="length", prompt_tokens=1, completion_tokens=1)
            for i in range(300)
        ]  # fmt: skip
        write_lines(folder.cell(run.cell).generations("held_out", "d"), lines)
    browser = browse(folder, runs, ["held_out.exact_match"])
    (found,) = browser.suites
    assert len(found.examples) == MAX_EXAMPLES
    assert found.num_examples == 300
    assert [len(answer.runs) for answer in found.examples[0].answers] == [150]
    assert len(as_island(browser)) < 500_000


def test_different_answers_of_many_runs_stay_within_the_budget(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    suite = suite_result("held_out", {"exact_match": coin(0.5, 60, 1)})
    runs = [cell_result(f"run {i}", suite) for i in range(180)]
    for k, run in enumerate(runs):
        lines = [
            Generation(example_id=f"e{i}", prompt="p", text=f"{k} " + "t" * 3000, stop_reason="length", prompt_tokens=1, completion_tokens=1)
            for i in range(60)
        ]  # fmt: skip
        write_lines(folder.cell(run.cell).generations("held_out", "d"), lines)
    assert 100_000 < len(as_island(browse(folder, runs, []))) < 3_000_000


def test_island_cannot_end_its_script_element() -> None:
    text = as_island(Browser(["</script>\u2028<!--"], []))
    assert "<" not in text
    assert json.loads(text)["runs"] == ["</script>\u2028<!--"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b", "a[U+0000]b"),
        ("\u202eabc", "[U+202E]abc"),
        ("\ud800", "[U+D800]"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\u200f", "\u200f"),
    ],
)
def test_what_works_unseen_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_cuts_say_what_is_missing() -> None:
    assert cut("abcdef", 4) == "abcd … (2 more characters)"
    assert cut_front("abcdef", 4) == "(2 characters before) … cdef"
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b and c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(("seconds", "shown"), [(42.4, "42 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_markdown_neither_calls_people_nor_sets_formulas() -> None:
    assert not re.search(r"(?<!\w)@\w", safe("ask @somebody about #12"))
    assert safe("$x$ | <b>") == r"\$x\$ \| &lt;b&gt;"


def test_adherence_is_found_by_kind_and_pooled_over_seeds() -> None:
    cells = [made_cell("c,seed=0", 0.9), made_cell("c,seed=1", 0.9, seed=1)]
    (table,) = adherence_tables(cells, [])
    assert table.suite == "form"
    assert table.columns == ["all", "all.with_tools", "all.plain"]
    ((name, values),) = table.rows
    each = [cell.metrics()["form.all"] for cell in cells]
    assert name == "c"
    assert values[0] is not None
    assert values[0].value == pytest.approx((each[0].value + each[1].value) / 2)
    assert values[0].low == min(item.low for item in each)


def test_cells_with_the_same_rows_share_a_line() -> None:
    assert [entry.cells for entry in split_rows([made_cell("a", 0.9), made_cell("b", 0.5)])] == [["a", "b"]]
