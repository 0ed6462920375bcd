"""`harness suites`: what can be asked, and what it measures."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.errors import EvalError
from harness.eval_config import EvalConfig
from harness.scoring.definitions import DEFINITIONS, metric_definition
from harness.scoring.table import SAMPLE_SCORERS, SCORERS
from harness.suite import chosen_scorers, known_suites, load_suite

Write = Callable[[str, str], Path]
OWN = '''\
from harness.records import Score
from harness.suite import Suite


def is_short(measured):
    """1 where the answer has at most 20 words, else 0.

    More of this.
    """
    return Score(example_id=measured.example.id, metric="is_short", value=1.0)


SUITE = Suite(name="short", version=3, description="short answers", scorers={"is_short": is_short})
'''


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def listed(*arguments: str) -> dict[str, Any]:
    return json.loads(harness("suites", *arguments, "--json").output)


def test_bundled_suites_are_listed_with_their_metrics(write: Write) -> None:
    write("", "x.txt")
    suites = {suite["name"]: suite for suite in listed()["suites"]}
    assert {"held_out", "retention", "template_adherence", "consistency"} <= set(suites)
    assert suites["retention"]["metrics"]["nll"] == "Nats per token of the reference after the prompt; less is better."
    assert {suite["source"] for suite in suites.values()} == {"package"}


def test_own_suite_is_listed_with_the_first_line_of_its_scorers(write: Write) -> None:
    write(OWN, "evals/short.py")
    assert listed("short")["suites"] == [
        {
            "name": "short", "version": 3, "description": "short answers", "source": "folder",
            "metrics": {"is_short": "1 where the answer has at most 20 words, else 0."},
        }
    ]  # fmt: skip


def test_own_suite_may_define_a_dataclass(write: Write) -> None:
    fields = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Rule:\n    words: int\n\n\n"
    write(fields + OWN, "evals/short.py")
    assert load_suite("short").name == "short"


def test_suite_that_can_not_be_imported_leaves_no_module_behind(write: Write) -> None:
    write("import nothing_like_it\n", "evals/broken.py")
    with pytest.raises(EvalError, match="can't be imported"):
        load_suite("broken")
    assert "harness_evals_broken" not in sys.modules


def test_suite_that_can_not_be_imported_is_listed_with_its_error(write: Write) -> None:
    write("import nothing_like_it\n", "evals/broken.py")
    broken = next(suite for suite in listed()["suites"] if suite["name"] == "broken")
    assert "ModuleNotFoundError" in broken["error"]
    done = harness("suites")
    assert done.exit_code == 0
    assert "broken" in done.output and "held_out" in done.output


def test_broken_suite_that_is_asked_for_is_a_mistake(write: Write) -> None:
    write("SUITE = 1\n", "evals/broken.py")
    done = harness("suites", "broken")
    assert done.exit_code == 2
    assert "doesn't define SUITE" in done.output


def test_unknown_suite_names_the_known_ones(write: Write) -> None:
    write(OWN, "evals/short.py")
    with pytest.raises(EvalError, match="choose one of consistency, .*short, template_adherence"):
        load_suite("shorts")


def test_files_that_begin_with_an_underscore_are_no_suites(write: Write) -> None:
    write("", "evals/__init__.py")
    write("", "evals/_shared.py")
    assert not [name for name in known_suites() if name.startswith("_")]


def test_one_suite_is_shown_with_the_options_of_the_experiment_file(write: Write) -> None:
    write(OWN, "evals/short.py")
    output = harness("suites", "short").output
    assert all(f"  {field} " in output for field in EvalConfig.model_fields)


@pytest.mark.parametrize("name", sorted({**SCORERS, **SAMPLE_SCORERS}))
def test_every_scorer_is_defined_in_a_line(name: str) -> None:
    definition = metric_definition(name, {**SCORERS, **SAMPLE_SCORERS}[name])
    assert definition.endswith(".") and "\n" not in definition


@pytest.mark.parametrize("name", ["consistency", "held_out", "retention", "template_adherence"])
def test_every_metric_of_a_bundled_suite_is_defined(name: str) -> None:
    assert all(listed(name)["suites"][0]["metrics"].values())


def test_defined_scorers_exist() -> None:
    suite = load_suite("template_adherence")
    known = {**SCORERS, **SAMPLE_SCORERS, **suite.scorers, "style": None}
    assert set(DEFINITIONS) <= set(known)


def test_choices_are_measured_where_a_suite_looks_at_them() -> None:
    def needs_choices(suite: str, **options: object) -> bool:
        given = EvalConfig.model_validate({"suite": suite, **options})
        return chosen_scorers(load_suite(suite), given).needs_choices

    assert needs_choices("retention")
    assert needs_choices("retention", scorers=["accuracy"])
    assert needs_choices("held_out", scorers=["choice_accuracy"])
    assert not needs_choices("held_out")
