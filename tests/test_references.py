"""A perfect answer, word for word what the template would train, passes every suite, whatever the template writes around it."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.grammar import LOOKUP_TOOL
from harness.data.tokenize import prompt_ids, tokenized_answer
from harness.eval_config import EvalConfig
from harness.evaluate import evaluate
from harness.models.answer_cache import AnswerCache
from harness.models.generate import Completion
from harness.models.load import LoadedModel, LoadedTokenizer, load_base
from harness.models.local import LocalModel
from harness.models.respondent import Sampling
from harness.models.templates import plan_tokens
from harness.records import Message, TemplateInputs
from harness.store import CellFolder
from harness.suite import load_suite

TRL_TEMPLATES = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
ASKED = Message(role="user", content="How many roses are there?")
TOOLS = TemplateInputs(tools=(LOOKUP_TOOL,))


def call(key: str) -> dict:
    return {"id": "abcdef123", "type": "function", "function": {"name": "lookup", "arguments": {"key": key}}}


ROWS = {
    "plain": Conversation(id="plain", messages=(ASKED, Message(role="assistant", content="There are 7."))),
    "thinking": Conversation(
        id="thinking", messages=(ASKED, Message(role="assistant", content="7", reasoning_content="Count them: 3 + 4."))
    ),
    "call": Conversation(
        id="call", messages=(ASKED, Message(role="assistant", tool_calls=(call("roses"),))), inputs=TOOLS
    ),
    "two calls": Conversation(
        id="two calls",
        messages=(ASKED, Message(role="assistant", tool_calls=(call("red"), call("white")))),
        inputs=TOOLS,
    ),
    "prose and call": Conversation(
        id="prose and call",
        messages=(ASKED, Message(role="assistant", content="Let me look.", tool_calls=(call("roses"),))),
        inputs=TOOLS,
    ),
    "tools but no call": Conversation(
        id="no call", messages=(ASKED, Message(role="assistant", content="I can't say.")), inputs=TOOLS
    ),
}


class PerfectModel(LocalModel):
    """Answers every prompt with the reference."""

    def __init__(self, loaded: LoadedModel, row: Conversation, folder: Path) -> None:
        super().__init__(
            LoadedTokenizer(loaded.tokenizer, loaded.tokens), lambda: loaded, AnswerCache(folder / "answers.jsonl")
        )
        self._row = row

    def completions(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        found = []
        for prompt in prompts:
            done = tokenized_answer(self.loaded.tokenizer, self.loaded.tokens, prompt, self._row)
            found.append([Completion(tuple(label for label in done.labels if label >= 0), "end_of_turn")])
        return found


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    torch.set_num_threads(1)
    config = {"model": {"name": "embedded:base"}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
    return load_base(RunConfig.model_validate(config), plain_rows=False)


def with_template(base: LoadedModel, name: str) -> LoadedModel:
    path = Path("harness/templates") / f"{name}.jinja"
    own = Path(__file__).parent.parent / path
    base.tokenizer.chat_template = (own if own.is_file() else TRL_TEMPLATES / f"{name}.jinja").read_text()
    tokens = plan_tokens(base.tokenizer)
    base.model.resize_token_embeddings(len(base.tokenizer))
    return dataclasses.replace(base, tokens=tokens)


@pytest.mark.parametrize(
    "template", ["chatml", "chatml_thinking", "chatml_tools", "qwen3", "qwen3_5_think", "glm4moe", "qwen2_5"]
)
@pytest.mark.parametrize("kind", list(ROWS))
def test_a_perfect_answer_passes(base: LoadedModel, tmp_path: Path, template: str, kind: str) -> None:
    loaded, row = with_template(base, template), ROWS[kind]
    prompt = prompt_ids(loaded.tokenizer, row.messages[:-1], "", row.inputs)
    try:
        tokenized_answer(loaded.tokenizer, loaded.tokens, prompt, row)
    except Exception as error:
        pytest.skip(f"{template} can't ask for this as it trains it: {error}")
    answer = row.messages[-1]
    if not tokenized_answer(loaded.tokenizer, loaded.tokens, prompt, row).num_supervised:
        pytest.skip(f"{template} drops all of the answer")
    for name, metric in (("template_adherence", "all"), ("held_out", "exact_match")):
        asked = PerfectModel(loaded, row, tmp_path)
        result = evaluate(load_suite(name), EvalConfig(suite=name), [row.example()], asked, CellFolder(tmp_path))
        score = next(score for score in result.scores if score.metric == metric)
        assert score.value == 1, f"{metric}: {score.failure} ({answer})"


def test_an_empty_thinking_block_is_no_thinking_and_a_full_one_is(base: LoadedModel) -> None:
    from harness.scoring.structure import thinking_failure

    assert thinking_failure("<think>\n\n</think>\n\n7", wanted=False) == ""
    assert thinking_failure("<think>\n\n</think>\n\n7", wanted=True) == "thinking_missing"
    assert thinking_failure("<think>3 + 4</think>7", wanted=False) == "thinking_not_asked"
