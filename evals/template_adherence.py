"""Does the model keep to its chat template? One turn, properly ended, in the form that was asked for.

Asks the held-out conversations of the experiment's test split. A generation passes when it ends with the end-of-turn
token, has no role header or control token inside, is valid JSON that fits the schema where one is given, is one
well-formed tool call where tools are given, and has exactly one closed thinking block where thinking is asked for, and
none where it is not.
"""

from collections.abc import Sequence

from harness.config import EvalConfig
from harness.records import Example, Score
from harness.scoring.measurement import Measurement
from harness.scoring.structure import adherence_failure
from harness.suite import Suite


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """The test split as it is."""
    return test


def keeps_to_template(measured: Measurement) -> Score:
    """Every structural check at once; `failure` names the first that fails."""
    generation, example = measured.generation, measured.example
    failure = adherence_failure(generation.text, generation.stop_reason, example.expect, measured.special_tokens)
    return Score(example_id=example.id, metric="all", value=float(not failure), failure=failure)


def ends_its_turn(measured: Measurement) -> Score:
    """Whether generation stopped at the end-of-turn token."""
    ended = measured.generation.stop_reason == "end_of_turn"
    return Score(example_id=measured.example.id, metric="end_of_turn", value=float(ended))


SUITE = Suite(
    name="template_adherence",
    version=2,
    description="ends its turn, no leaked roles or control tokens, JSON, tool calls and thinking as asked",
    scorers={"all": keeps_to_template, "end_of_turn": ends_its_turn},
    load=load,
)
