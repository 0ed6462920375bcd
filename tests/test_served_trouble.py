"""Servers in trouble: what passes is waited for, what stays is one sentence, and nothing is made up."""

import importlib.util
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from pydantic import ValidationError

from harness.errors import ModelError
from harness.eval_config import ReferenceConfig
from harness.models.respondent import Sampling
from harness.models.served import ServedModel
from harness.records import Example
from tests.servers import GREEDY, Reply, Script, chat, only, question, serving

pytest.importorskip("openai", reason="the extra `endpoints` is not installed")

KEY = "sk-test-0123456789"


def problem(script: Reply | Script, **fields: Any) -> str:
    """What is said when a server answers so."""
    with (
        serving(script if callable(script) else lambda path, body: script) as server,
        pytest.raises(ModelError) as failed,
    ):
        only(server.model(**fields), question("Who?", "e1"))
    assert "\n" not in str(failed.value)
    return str(failed.value).replace(server.url, "URL")


# Trouble that passes


def test_a_busy_server_is_asked_again_after_the_pause_that_it_names() -> None:
    answers = iter(
        [
            (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"}),
            (500, "oops", {"Retry-After": "0.1"}),
            chat("done"),
        ]
    )
    times: list[float] = []

    def script(path: str, body: dict) -> Reply:
        times.append(time.monotonic())
        return next(answers)

    with serving(script) as server:
        assert only(server.model(max_retries=2), question("Who?")).text == "done"
    assert times[1] - times[0] >= 0.3


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 4300 tokens",
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 tokens",
        "The decoder prompt (length 700) is longer than the maximum model length of 512",
        "The input (700 tokens) is longer than the model's context length (512 tokens).",
        "max_tokens must be at least 1, got -186.",
        "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "input length and `max_tokens` exceed context limit: 143653 + 64000 > 200000",
    ],
)
def test_a_prompt_that_is_too_long_is_unscored_and_the_others_are_answered(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    def script(path: str, body: dict) -> Reply:
        return (
            (400, {"error": {"message": message}}) if body["messages"][0]["content"] == "long" else chat("short answer")
        )

    with serving(script) as server:
        found = server.model().generations([question("long"), question("short")], as_text=False, sampling=GREEDY)
    assert [(item.stop_reason, item.text) for (item,) in found] == [
        ("prompt_too_long", ""),
        ("end_of_turn", "short answer"),
    ]
    assert "1 of 2 prompts leave no room for 24 new tokens" in caplog.text


def test_samples_that_are_all_the_same_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda path, body: chat("always this")) as server:
        sampling = Sampling(max_new_tokens=5, num_samples=2, temperature=1.0)
        server.model().generations([question("a"), question("b")], as_text=False, sampling=sampling)
    assert "the server seems to ignore temperature 1" in caplog.text


def test_a_server_that_changes_meanwhile_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda path, body: chat() | {"system_fingerprint": f"fp_{body['messages'][0]['content']}"}) as server:
        server.model().generations([question("a"), question("b")], as_text=False, sampling=GREEDY)
    assert "the server changed while it was asked (system_fingerprint fp_a, fp_b)" in caplog.text


# Trouble that stays


def test_nothing_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ModelError) as failed:
            only(ServedModel(ReferenceConfig(name="parent", model="tiny", url=url, max_retries=0)), question("Who?"))
    said = str(failed.value)
    assert said.startswith(f"reference parent: the server at {url} can't be reached (") and said.endswith(
        "); start it, or correct url"
    )


def test_a_key_is_wanted() -> None:
    assert problem((401, {"error": "Unauthorized"}), api_key_env="MY_KEY") == (
        "reference parent: the server at URL wants a key (401: Unauthorized); put it into the environment variable MY_KEY"
    )


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    def script(path: str, body: dict) -> Reply:
        if path == "/v1/models":
            return {"data": [{"id": "tiny-chat"}, {"id": "large"}]}
        return 404, {"error": {"message": "The model `tiny` does not exist."}}

    assert problem(script) == (
        "reference parent: the server at URL has no model 'tiny'; it has tiny-chat, large; set model to tiny-chat"
    )


def test_a_server_without_the_endpoint() -> None:
    def script(path: str, body: dict) -> Reply:
        return {"data": [{"id": "tiny"}]} if path == "/v1/models" else (404, {"detail": "Not Found"})

    with (
        serving(script) as server,
        pytest.raises(ModelError, match=r"has no /completions \(404: Not Found\); ask a server that has it"),
    ):
        only(server.model(), Example(id="e", text="The", reference=""), as_text=True)


def test_an_address_without_v1() -> None:
    assert problem((404, {"detail": "Not Found"})) == (
        "reference parent: the server at URL doesn't know /chat/completions or the model 'tiny' (404: Not Found); "
        "correct url, which usually ends in /v1, or model"
    )


def test_too_many_requests() -> None:
    assert problem((429, {"error": {"message": "Rate limit reached"}}), concurrency=2) == (
        "reference parent: the server at URL turned example e1 away too often (429: Rate limit reached); "
        "lower concurrency, or raise max_retries (0)"
    )


def test_a_server_that_fails_again_and_again() -> None:
    calls: list[str] = []

    def script(path: str, body: dict) -> Reply:
        calls.append(path)
        return 502, "<html><head><title>502 Bad Gateway</title></head></html>", {"Retry-After": "0.01"}

    assert problem(script, max_retries=2) == (
        "reference parent: the server at URL failed on example e1 (502: 502 Bad Gateway) (max_retries 2); look into the server's own log"
    )
    assert len(calls) == 3


def test_a_server_that_is_too_slow() -> None:
    def script(path: str, body: dict) -> Reply:
        time.sleep(1)
        return chat()

    assert problem(script, timeout_seconds=0.2) == (
        "reference parent: the server at URL didn't answer example e1 within 0.2 seconds (max_retries 0); "
        "raise timeout_seconds, or lower concurrency or max_new_tokens"
    )


def test_a_request_that_is_refused_for_its_own_sake() -> None:
    said = "Unsupported value: 'temperature' does not support 0 with this model."
    assert problem((400, {"error": {"message": said}})) == (
        f"reference parent: the server at URL refuses example e1 (400: {said}); correct what it names"
    )


@pytest.mark.parametrize(
    "body",
    [
        "<html><body>Welcome to nginx!</body></html>",
        b'{"choices": [',
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_answer(body: str | bytes) -> None:
    said = problem(body)
    assert said.startswith("reference parent: the server at URL sent what is no answer (")
    assert said.endswith("); check url, which usually ends in /v1")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ModelError) as failed:
        ServedModel(ReferenceConfig(name="parent", model="tiny", url=url))
    assert str(failed.value) == "reference parent: url is no address of a server; write it as http://localhost:8000/v1"


def test_a_password_in_the_address_is_refused_because_files_would_show_it() -> None:
    with pytest.raises(ValidationError, match="put the password into the environment variable"):
        ReferenceConfig(name="parent", model="tiny", url="http://user:s3cret@host/v1")


def test_a_key_in_the_address_is_refused_because_logs_would_show_it() -> None:
    with pytest.raises(ModelError) as failed:
        ServedModel(ReferenceConfig(name="parent", model="tiny", url="https://host/v1?api-key=s3cret"))
    assert "put a key into the environment variable OPENAI_API_KEY" in str(failed.value) and "s3cret" not in str(
        failed.value
    )


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package openai; run pip install 'sft-harness\[endpoints\]'"):
        ServedModel(ReferenceConfig(name="parent", model="tiny", url="http://127.0.0.1:1/v1"))


def test_one_failure_ends_the_others_and_keeps_what_came_before() -> None:
    free, waited = threading.Event(), threading.Event()

    def script(path: str, body: dict) -> Reply:
        asked = body["messages"][0]["content"]
        if asked == "slow":
            free.wait(20)
            waited.set()
        return (400, {"error": {"message": "no"}}) if asked == "bad" else chat()

    with serving(script) as server:
        model = server.model(concurrency=3)
        only(model, question("first"))
        with pytest.raises(ModelError):
            model.generations([question(name) for name in ("first", "slow", "bad")], as_text=False, sampling=GREEDY)
        assert not waited.is_set()
        free.set()
        assert only(model, question("first")).text == "fine"
    assert [body["messages"][0]["content"] for body in server.bodies].count("first") == 1


def test_ctrl_c_ends_at_once() -> None:
    code = """
import signal
import sys
# A shell's background jobs are started with it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from harness.eval_config import ReferenceConfig
from harness.models.respondent import Sampling
from harness.models.served import ServedModel
from harness.records import Example
model = ServedModel(ReferenceConfig(name="parent", model="tiny", url=sys.argv[1], concurrency=2))
examples = [Example(id=str(i), text=str(i), reference="") for i in range(6)]
try:
    model.generations(examples, as_text=False, sampling=Sampling(8))
except KeyboardInterrupt:
    sys.exit(130)
"""
    asked, free = threading.Event(), threading.Event()

    def script(path: str, body: dict) -> Reply:
        asked.set()
        free.wait(60)
        return chat()

    with serving(script) as server:
        process = subprocess.Popen([sys.executable, "-c", code, server.url])
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            assert process.wait(40) == 130
        finally:
            process.kill()
            process.wait()
            free.set()


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with caplog.at_level(logging.DEBUG):
        said = problem(lambda path, body: (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
        with serving(lambda path, body: (403, f"<p>no entry for {KEY}</p>")) as server:
            with pytest.raises(ModelError) as failed:
                only(server.model(), question("Who?"))
            assert server.authorizations[0] == f"Bearer {KEY}"
    assert said == (
        "reference parent: the server at URL refuses the key in OPENAI_API_KEY (401: Incorrect API key provided: ***); "
        "check it, and what it may be used for"
    )
    shown = caplog.text + said + str(failed.value)
    assert KEY not in shown


def test_without_a_key_the_library_takes_none_of_another_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda path, body: chat()) as server:
        only(server.model(api_key_env="OTHER_KEY"), question("Who?"))
    assert server.authorizations[0] == "Bearer EMPTY"
