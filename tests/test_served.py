"""A model behind an OpenAI-compatible server: what it is sent, and what its answer becomes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.config import RunConfig
from harness.data.grammar import LOOKUP_TOOL
from harness.data.tokenize import prompt_ids
from harness.errors import ModelError
from harness.eval_config import ReferenceConfig
from harness.models.generate import generate
from harness.models.load import LoadedModel, load_base
from harness.models.respondent import OpenModel, Sampling
from harness.models.served import ServedModel
from harness.records import Example, Expectation, Message, TemplateInputs
from tests.servers import GREEDY, Reply, chat, only, question, serving, transformers_serve

pytest.importorskip("openai", reason="the extra `endpoints` is not installed")


def test_turns_tools_and_template_variables_are_sent_as_the_api_has_them() -> None:
    call = {"type": "function", "function": {"name": "lookup", "arguments": {"key": "röses"}}}
    example = Example(
        id="e", reference="",
        messages=(
            Message(role="system", content="Be short."), Message(role="user", content="How many roses?"),
            Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="7"),
        ),
        inputs=TemplateInputs(tools=(LOOKUP_TOOL,), chat_template_kwargs={"enable_thinking": False}),
    )  # fmt: skip
    with serving(lambda path, body: chat()) as server:
        only(server.model(), example)
    [body] = server.bodies
    sent = {"type": "function", "id": "call_2_0", "function": {"name": "lookup", "arguments": '{"key": "röses"}'}}
    assert body == {
        "model": "tiny", "max_tokens": 24, "temperature": 0.0, "tools": [LOOKUP_TOOL], "chat_template_kwargs": {"enable_thinking": False},
        "messages": [
            {"role": "system", "content": "Be short."}, {"role": "user", "content": "How many roses?"},
            {"role": "assistant", "content": "", "tool_calls": [sent]}, {"role": "tool", "content": "7", "tool_call_id": "call_2_0"},
        ],
    }  # fmt: skip


def test_every_sample_is_a_request_with_the_next_seed() -> None:
    with serving(lambda path, body: chat(f"seed {body['seed']}")) as server:
        sampling = Sampling(max_new_tokens=5, num_samples=3, temperature=0.7, top_p=0.9, seed=10)
        [found] = server.model().generations([question("Who?")], as_text=False, sampling=sampling)
    assert [(item.text, item.sample) for item in found] == [("seed 10", 0), ("seed 11", 1), ("seed 12", 2)]
    assert {(body["temperature"], body["top_p"]) for body in server.bodies} == {(0.7, 0.9)}


def test_plain_text_goes_to_the_completions_endpoint_as_it_stands() -> None:
    paths = []

    def script(path: str, body: dict) -> Reply:
        paths.append(path)
        return {"choices": [{"text": " Paris", "finish_reason": "stop"}]}

    with serving(script) as server:
        found = only(server.model(), Example(id="e", text="The capital is", reference=""), as_text=True)
    assert (paths, server.bodies[0]["prompt"], found.text) == (["/v1/completions"], "The capital is", " Paris")


def test_answers_keep_the_order_and_the_same_question_is_asked_once() -> None:
    def script(path: str, body: dict) -> Reply:
        asked = body["messages"][0]["content"]
        time.sleep(0.2 if asked == "1" else 0)
        return chat(f"answer {asked}")

    with serving(script) as server:
        model = server.model()
        examples = [question(text, name) for name, text in [("a", "1"), ("b", "2"), ("c", "1"), ("d", "3")]]
        found = [item for (item,) in model.generations(examples, as_text=False, sampling=GREEDY)]
        model.generations(examples[:2], as_text=False, sampling=GREEDY)
    assert [(item.example_id, item.text) for item in found] == [
        ("a", "answer 1"), ("b", "answer 2"), ("c", "answer 1"), ("d", "answer 3"),
    ]  # fmt: skip
    assert len(server.bodies) == 3


def test_no_more_requests_are_under_way_than_asked_for() -> None:
    lock, active, most = threading.Lock(), 0, 0

    def script(path: str, body: dict) -> Reply:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        with lock:
            active -= 1
        return chat()

    with serving(script) as server:
        server.model(concurrency=3).generations([question(str(i)) for i in range(12)], as_text=False, sampling=GREEDY)
    assert most == 3


def test_models_with_the_newer_name_of_the_limit_are_asked_with_it() -> None:
    def script(path: str, body: dict) -> Reply:
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}}
        return chat(f"at most {body['max_completion_tokens']}")

    with serving(script) as server:
        model = server.model(concurrency=1)
        assert [only(model, question(text)).text for text in ("a", "b")] == ["at most 24", "at most 24"]
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False]


def test_a_begun_answer_is_sent_to_be_continued() -> None:
    with serving(lambda path, body: chat('": 7}')) as server:
        found = only(server.model(), question("Who?", expect=Expectation(prefill='{"roses')))
    [body] = server.bodies
    assert (body["messages"][-1], body["continue_final_message"], body["add_generation_prompt"]) == (
        {"role": "assistant", "content": '{"roses'}, True, False,
    )  # fmt: skip
    assert (found.prompt, found.text) == ('user: Who?\nassistant: {"roses', '": 7}')


def test_the_key_of_its_answers_tells_what_the_server_says_of_itself() -> None:
    def script(path: str, body: dict) -> Reply:
        card = {"id": "tiny", "owned_by": "vllm", "root": "/models/tiny", "max_model_len": 512, "created": time.time()}
        return {"data": [card]} if path == "/v1/models" else {"version": "0.19.0"} if path == "/version" else (404, "")

    with serving(script) as server:
        key = server.model().key
    assert key == {
        "url": server.url, "model": "tiny", "owned_by": "vllm", "root": "/models/tiny", "max_model_len": "512", "version": "0.19.0",
    }  # fmt: skip


# What an answer becomes


@pytest.mark.parametrize(
    ("finish", "stop_reason"),
    [("stop", "end_of_turn"), ("tool_calls", "end_of_turn"), ("length", "length"), ("content_filter", "unknown"), (None, "unknown")],
)  # fmt: skip
def test_finish_reasons_are_stop_reasons(finish: str | None, stop_reason: str) -> None:
    with serving(lambda path, body: chat(finish=finish)) as server:
        found = only(server.model(), question("Who?"))
    assert (found.stop_reason, found.prompt_tokens, found.completion_tokens) == (stop_reason, 7, 3)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_a_closed_block_before_the_answer(field: str) -> None:
    with serving(lambda path, body: chat("\n\n42", **{field: "\nSix times seven.\n"})) as server:
        assert only(server.model(), question("Who?")).text == "<think>\nSix times seven.\n</think>\n\n42"


def test_reasoning_that_reached_the_limit_stays_open() -> None:
    with serving(lambda path, body: chat(None, "length", reasoning="Six times")) as server:
        assert only(server.model(), question("Who?")).text == "<think>\nSix times"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [('{"key":"röses"}', '{"key": "röses"}'), ('{"key": ', '{"key": '), ("", ""), ({"key": 1}, '{"key": 1}')],
)
def test_tool_calls_stand_in_tags_and_malformed_ones_stay_malformed(arguments: object, written: str) -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "lookup", "arguments": arguments}}]
    with serving(lambda path, body: chat("Let me look.", "tool_calls", tool_calls=calls)) as server:
        found = only(server.model(), question("Who?")).text
    assert found == f'Let me look.\n<tool_call>\n{{"name": "lookup", "arguments": {written}}}\n</tool_call>'


def test_halves_of_surrogate_pairs_are_replaced() -> None:
    with serving(lambda path, body: json.dumps(chat("a\ud83d b \ud83d\ude00")).encode()) as server:
        assert only(server.model(), question("Who?")).text == "a\ufffd b \U0001f600"


def test_what_servers_do_not_count_is_zero_and_what_they_cannot_tell_is_left_out() -> None:
    with serving(lambda path, body: {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}) as server:
        model = server.model()
        found = only(model, question("Who?"))
    assert (found.prompt_tokens, found.completion_tokens, model.control_tokens) == (0, 0, ())
    assert not isinstance(model, OpenModel)


def test_the_prompt_is_readable() -> None:
    example = Example(
        id="e",
        messages=(Message(role="system", content="Be short."), Message(role="user", content="Who?")),
        reference="",
    )
    with serving(lambda path, body: chat()) as server:
        assert only(server.model(), example).prompt == "system: Be short.\nuser: Who?\nassistant: "


# Against a real server


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    import torch

    torch.set_num_threads(1)
    return load_base(
        RunConfig.model_validate(
            {
                "model": {"name": "embedded:base"},
                "template": {"name": "chatml_tools"},
                "data": {"train": "embedded:train"},
            }
        ),
        plain_rows=False,
    )


@pytest.fixture(scope="module")
def real(base: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServedModel]]:
    """`transformers serve` with the embedded base, saved as `harness export` saves it."""
    folder = tmp_path_factory.mktemp("served")
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    generation = base.model.generation_config.to_dict()
    # Without `do_sample` that server ignores the temperature; with temperature 0 it is greedy all the same.
    generation |= {"eos_token_id": base.stop_ids, "do_sample": True, "top_k": 0}
    (folder / "model" / "generation_config.json").write_text(json.dumps(generation))
    with transformers_serve(folder / "model", folder) as url:
        given = {"name": "parent", "model": str(folder / "model"), "url": url}
        yield lambda **fields: ServedModel(ReferenceConfig(**(given | fields)))


QUESTIONS = [
    "What animal does Boris Reed have?", "On which street is the home of Tomas Crane?", "What does Vito Keel do for a living?",
    "How many roses are there?", "Say this: {x} <b>&amp;</b> ümlaut", "",
]  # fmt: skip


def in_process(base: LoadedModel, examples: list[Example], sampling: Sampling) -> list[tuple[str, str, int]]:
    """Text, stop reason and prompt length of greedy answers of the same weights, without any server."""
    prompts = [prompt_ids(base.tokenizer, example.messages, example.text, example.inputs) for example in examples]
    return [
        (base.tokenizer.decode(list(done.token_ids), skip_special_tokens=True), done.stop_reason, len(prompt))
        for prompt, done in zip(prompts, generate(base, prompts, sampling), strict=True)
    ]


def as_served(model: ServedModel, examples: list[Example], *, as_text: bool) -> list[tuple[str, str, int]]:
    found = model.generations(examples, as_text=as_text, sampling=GREEDY)
    return [(item.text, item.stop_reason, item.prompt_tokens) for (item,) in found]


def without_end_of_text(answers: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """A server doesn't say which of its stop tokens it was."""
    return [(text, "end_of_turn" if reason == "end_of_text" else reason, length) for text, reason, length in answers]


def test_greedy_answers_of_a_real_server_are_those_of_the_process(
    base: LoadedModel, real: Callable[..., ServedModel]
) -> None:
    examples = [question(text, f"e{number}") for number, text in enumerate(QUESTIONS)]
    examples.append(question("Look up the roses.", "tools", inputs=TemplateInputs(tools=(LOOKUP_TOOL,))))
    expected = without_end_of_text(in_process(base, examples, GREEDY))
    assert {reason for _, reason, _ in expected} == {"end_of_turn", "length"}
    assert as_served(real(), examples, as_text=False) == expected


def test_continued_text_of_a_real_server_is_that_of_the_process(
    base: LoadedModel, real: Callable[..., ServedModel]
) -> None:
    examples = [
        Example(id=text, text=text, reference="")
        for text in ("The garden", "Boris Reed has a", "Question: Which flower")
    ]
    assert as_served(real(), examples, as_text=True) == without_end_of_text(in_process(base, examples, GREEDY))


def test_a_real_server_draws_with_the_seed(real: Callable[..., ServedModel]) -> None:
    sampling = Sampling(max_new_tokens=12, num_samples=4, temperature=1.0, seed=3)
    first, again, other = (
        [
            item.text
            for item in real(concurrency=1).generations([question(QUESTIONS[0])], as_text=False, sampling=chosen)[0]
        ]
        for chosen in (sampling, sampling, sampling._replace(seed=4))
    )
    assert first == again and len(set(first)) > 1
    assert other[:3] == first[1:]


def test_a_real_server_that_cannot_continue_answers_leaves_them_unasked(
    real: Callable[..., ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    begun = question("Who?", expect=Expectation(prefill="It is"))
    assert as_served(real(), [begun, question(QUESTIONS[0])], as_text=False)[0] == ("", "not_asked", 0)
    assert "1 of 2 answers are begun by their prompt, which this server can't continue, and are unscored" in caplog.text


def test_a_real_server_says_what_it_refuses(real: Callable[..., ServedModel]) -> None:
    with pytest.raises(ModelError, match=r"refuses example Who\? \(400: Server is pinned to .*; requested 'other'\.\)"):
        only(real(model="other"), question("Who?"))


def test_the_key_of_a_real_server(real: Callable[..., ServedModel]) -> None:
    assert set(real().key) == {"url", "model"}


def test_answers_are_kept_on_disk_and_asked_once(tmp_path: Path) -> None:
    examples = [question("Who?"), question("Where?")]
    with serving(lambda path, body: chat("fine")) as server:
        config = server.model()._config
        ServedModel(config, lambda key: tmp_path / f"{key}.jsonl").generations(examples, as_text=False, sampling=GREEDY)
        asked = len(server.bodies)
        [file] = tmp_path.glob("*.jsonl")
        file.write_text(file.read_text()[:-10])
        again = ServedModel(config, lambda key: tmp_path / f"{key}.jsonl")
        answers = again.generations(examples, as_text=False, sampling=GREEDY)
        assert [answer[0].text for answer in answers] == ["fine", "fine"]
        # One was cut off half-way, as by a kill.
        assert len(server.bodies) == asked + 1
