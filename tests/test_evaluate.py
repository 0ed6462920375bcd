"""What a suite makes of examples and answers: names of slices and metrics, files of answers, and what is left unscored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import EvalError
from harness.eval_config import EvalConfig
from harness.evaluate import evaluate
from harness.models.respondent import RowLoss, Sampling
from harness.records import Example, Generation, Message, Score, StopReason, SuiteResult
from harness.scoring.measurement import Measurement, ToolCall
from harness.store import CellFolder, read_lines
from harness.suite import Suite, load_suite


def question(name: str, *, slices: tuple[str, ...] = (), choices: tuple[str, ...] = ()) -> Example:
    turns = (Message(role="user", content=name),)
    return Example(id=name, messages=turns, text=name, reference="red", slices=slices, choices=choices)


def answer(name: str, text: str, stop_reason: StopReason = "end_of_turn") -> Generation:
    return Generation(
        example_id=name, prompt=name, text=text, stop_reason=stop_reason, prompt_tokens=1, completion_tokens=1
    )


class Red:
    """Says red."""

    control_tokens: tuple[str, ...] = ()

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        return [(answer(example.id, "red"),) for example in examples]


def asked(folder: Path, examples: Sequence[Example], own: Suite | None = None, **options: object) -> SuiteResult:
    """The result where everything is answered `red`."""
    given = EvalConfig.model_validate({"suite": "held_out", "scorers": ["exact_match"], **options})
    return evaluate(own or load_suite("held_out"), given, examples, Red(), CellFolder(folder))


class Chooser:
    """Has no room for an answer, but for the choices."""

    control_tokens: tuple[str, ...] = ()

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        return [(answer(example.id, "", "prompt_too_long"),) for example in examples]

    def reference_losses(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, RowLoss]:
        return {}

    def choice_logprobs(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, tuple[float, ...]]:
        return {example.id: (-1.0, -2.0) for example in examples}

    def written_references(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, str | None]:
        return {}

    def parsed_calls(self, example: Example, generation: Generation) -> tuple[ToolCall, ...] | None:
        return None


def chosen(folder: Path, suite: str, **options: object) -> dict[str, float | None]:
    given = EvalConfig.model_validate({"suite": suite, **options})
    example = question("Which colour?", choices=("red", "blue"))
    result = evaluate(load_suite(suite), given, [example], Chooser(), CellFolder(folder))
    return {score.metric: score.value for score in result.scores}


def test_slices_in_other_scripts_stay_apart(tmp_path: Path) -> None:
    found = asked(tmp_path, [question("a", slices=("数学",)), question("b", slices=("语文",))])
    assert set(found.slice_metrics) == {"exact_match.数学", "exact_match.语文"}


def test_slices_are_named_as_gates_can_name_them(tmp_path: Path) -> None:
    found = asked(tmp_path, [question("a", slices=("north / south: all",))])
    assert set(found.slice_metrics) == {"exact_match.north___south__all"}


def test_long_slices_are_cut_and_stay_apart(tmp_path: Path) -> None:
    names = ["s" * 300 + end for end in "ab"]
    found = asked(tmp_path, [question(name[-1], slices=(name,)) for name in names])
    assert len(found.slice_metrics) == 2
    assert max(len(name) for name in found.slice_metrics) < 120


def test_score_counts_under_the_name_that_its_suite_gives_it(tmp_path: Path) -> None:
    def is_right(measured: Measurement) -> Score:
        return Score(example_id=measured.example.id, metric="right", value=1.0)

    def all_alike(measured: Sequence[Measurement]) -> list[Score]:
        return [Score(example_id=item.example.id, metric="alike", value=1.0) for item in measured]

    own = Suite(
        name="own", version=1, description="", scorers={"is_right": is_right}, sample_scorers={"any_right": is_right},
        group_scorers={"all_alike": all_alike},
    )  # fmt: skip
    found = asked(tmp_path, [question("a"), question("b")], own, suite="own", scorers=None)
    assert {name: metric.n for name, metric in found.metrics.items()} == {"is_right": 2, "any_right": 2, "all_alike": 2}


def test_choice_is_told_where_there_is_no_room_for_an_answer(tmp_path: Path) -> None:
    assert chosen(tmp_path, "retention")["accuracy"] == 1


@pytest.mark.parametrize("scorer", ["exact_match", "chrf"])
def test_missing_answer_to_a_choice_is_not_scored_as_text(tmp_path: Path, scorer: str) -> None:
    found = chosen(tmp_path, "held_out", scorers=[scorer, "choice_accuracy"])
    assert found == {scorer: None, "choice_accuracy": 1}


def test_answers_of_another_limit_are_kept_beside_each_other(tmp_path: Path) -> None:
    both = [question("a"), question("b")]
    first, second = asked(tmp_path, both, limit=2), asked(tmp_path, both[:1], limit=1)
    counts = [
        len(list(read_lines(CellFolder(tmp_path).generations("held_out", found.digest), Generation)))
        for found in (first, second)
    ]
    assert counts == [2, 1]


def test_result_knows_the_suite_behind_its_name(tmp_path: Path) -> None:
    found = asked(tmp_path, [question("a")], name="colours")
    assert found.suite == "colours"
    assert found.is_kind("held_out")
    assert not found.is_kind("colours")


def test_a_scorer_that_breaks_is_named_with_its_example(tmp_path: Path) -> None:
    def broken(measured: Measurement) -> Score:
        return measured.example.messages[-1]["content"]

    suite = Suite(name="mine", version=1, description="", scorers={"broken": broken})
    with pytest.raises(EvalError, match="the scorer broken failed on example first: TypeError"):
        evaluate(suite, EvalConfig(suite="mine"), [question("first")], Red(), CellFolder(tmp_path))
