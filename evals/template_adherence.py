"""Does the model keep to its chat template? One turn, properly ended, in the form that was asked for.

Asks the held-out conversations of the experiment's test split. A generation passes (`all`) when it ends with the
end-of-turn token, has no role header or control token inside, is valid JSON that fits the schema where one is given, is
as many well-formed tool calls as the reference where it calls tools, and has exactly one closed thinking block where the
reference has one, and none where it has none. `failure` names the first check that fails.

Asks beside them variations of these rows (`probes`): with and without a system turn, after another exchange, behind a
long text, with nothing asked, with other scripts, with control tokens in the prompt, and with the beginning of the
answer already written. `slices` in the YAML names the kinds: `slices: [system, json_prefill]`, or `[]` for none.
"""

from collections.abc import Sequence

from harness.data.adherence_prompts import is_probe, probes, real_prompts
from harness.eval_config import EvalConfig
from harness.records import Example, Score
from harness.scoring.continuation import continuation_failure
from harness.scoring.json_form import json_failure, loose_json_failure
from harness.scoring.measurement import Measurement, Scorer
from harness.scoring.structure import measured_failure
from harness.scoring.thinking import answer_in, opened_by, thinking_failure
from harness.scoring.tool_calls import calls_failure, reference_calls
from harness.suite import Suite, own_data_or_test


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """The test rows, as many as the limit says, with their kinds; then the variations of them."""
    real = real_prompts(own_data_or_test(test, options)[: options.limit])
    return [*real, *probes(real, options.slices)]


def verdict(measured: Measurement, metric: str, failure: str) -> Score:
    """1, or 0 with the name of what failed."""
    return Score(example_id=measured.example.id, metric=metric, value=float(not failure), failure=failure)


def keeps_to_template(measured: Measurement) -> Score | None:
    """Every structural check at once, of the test rows."""
    return None if is_probe(measured.example) else verdict(measured, "all", measured_failure(measured))


def keeps_to_template_elsewhere(measured: Measurement) -> Score | None:
    """The same of the variations."""
    if not is_probe(measured.example) or is_inside_thinking(measured):
        return None
    return verdict(measured, "probes", measured_failure(measured))


def ends_its_turn(measured: Measurement) -> Score | None:
    """Whether generation stopped at the end-of-turn token; None where it isn't known how it ended."""
    if is_probe(measured.example) or measured.generation.stop_reason == "unknown":
        return None
    ended = measured.generation.stop_reason == "end_of_turn"
    return verdict(measured, "end_of_turn", "" if ended else measured.generation.stop_reason)


def is_json(loose: bool) -> Scorer:
    """A scorer of answers that must be JSON: as they are, or without fences and prose around it."""
    metric, check = ("json_loose", loose_json_failure) if loose else ("json_strict", json_failure)

    def score(measured: Measurement) -> Score | None:
        expect = measured.example.expect
        if expect.json_schema is None or expect.is_free or is_probe(measured.example):
            return None
        whole = answer_in(expect.prefill + measured.generation.text)
        return verdict(measured, metric, check(whole, expect.json_schema))

    return score


def calls_right(measured: Measurement) -> Score | None:
    """Whether the reference's tools are called with its arguments, by BFCL's rules."""
    example = measured.example
    if not example.expect.tools or example.expect.is_free or is_probe(example):
        return None
    text = example.expect.prefill + measured.generation.text
    failure = calls_failure(text, example.expect, reference_calls(example), measured.parsed_calls)
    return verdict(measured, "tool_calls", failure)


def thinks_as_asked(measured: Measurement) -> Score | None:
    """One closed thinking block or none, where some of the test rows think and others may not."""
    example = measured.example
    if not {"thinking", "no_thinking"} & set(example.slices) or example.expect.is_free or is_probe(example):
        return None
    return verdict(measured, "thinking", thinking_failure(measured.generation.text, wanted=example.expect.thinking))


def continues(measured: Measurement) -> Score | None:
    """Whether an answer that the prompt begins goes on there."""
    prefill = measured.example.expect.prefill
    if not prefill or is_inside_thinking(measured):
        return None
    return verdict(measured, "continuation", continuation_failure(measured.generation.text, prefill))


def is_inside_thinking(measured: Measurement) -> bool:
    """Whether the template opened a thinking block before the prefill, which then begins no answer but a thought."""
    prefill = measured.example.expect.prefill
    return bool(prefill and opened_by(measured.generation.prompt.removesuffix(prefill)))


def prompt_as_trained(measured: Measurement) -> Score | None:
    """Whether the prompt is rendered as in training, where the answer follows it; None where that isn't known."""
    if measured.prompt_differs is None or is_probe(measured.example):
        return None
    return verdict(measured, "prompt_as_trained", "prompt_mismatch" if measured.prompt_differs else "")


SUITE = Suite(
    name="template_adherence",
    version=3,
    description="ends its turn, no leaked roles or control tokens, JSON, tool calls and thinking as asked, in many settings",
    scorers={
        "all": keeps_to_template,
        "probes": keeps_to_template_elsewhere,
        "end_of_turn": ends_its_turn,
        "json_strict": is_json(loose=False),
        "json_loose": is_json(loose=True),
        "tool_calls": calls_right,
        "thinking": thinks_as_asked,
        "continuation": continues,
        "prompt_as_trained": prompt_as_trained,
    },
    load=load,
    limits_itself=True,
)
