"""Instruction-following difficulty on the embedded base."""

import pytest
import torch

from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.models.ifd import ifd_scores
from harness.models.load import LoadedModel, load_base
from harness.records import Message


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    config = RunConfig.model_validate(
        {"model": {"name": "embedded:base"}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
    )
    return load_base(config, plain_rows=False)


@pytest.fixture(scope="module")
def plain() -> LoadedModel:
    config = RunConfig.model_validate(
        {"model": {"name": "embedded:base"}, "template": {"name": "none"}, "data": {"train": "embedded:train"}}
    )
    return load_base(config, plain_rows=True)


def turns(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(id="x", messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(contents)))


def mean_loss(loaded: LoadedModel, ids: list[int], start: int) -> float:
    """Nats per token of those from `start` on, straight from the logits."""
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return -sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))) / (len(ids) - start)


def test_score_is_the_ratio_of_the_losses_with_and_without_the_instruction(plain: LoadedModel) -> None:
    prompt, completion = "Question: Where does Ada Jarvis live?\nAnswer:", " Ada Jarvis lives in Mill Lane."
    asked = plain.tokenizer(prompt)["input_ids"]
    answer = [*plain.tokenizer(completion, add_special_tokens=False)["input_ids"], plain.tokens.end_of_turn_id]
    # Alone, nothing stands before the first token, so that it counts in neither.
    expected = mean_loss(plain, asked + answer, len(asked) + 1) / mean_loss(plain, answer, 1)
    found = ifd_scores(plain, [Conversation(id="x", prompt=prompt, completion=completion)], None)
    assert found == [pytest.approx(expected, rel=1e-4)]


def test_an_instruction_that_tells_the_answer_helps(plain: LoadedModel) -> None:
    """The base knows its world: a question about it makes its answer likely, and noise does so much less."""
    from harness.embedded.conversations import retention_rows

    known = [(row["prompt"], f" {row['answer']}") for row in list(retention_rows())[::8]]
    asked = [Conversation(id="x", prompt=prompt, completion=answer) for prompt, answer in known]
    noise = [row.model_copy(update={"prompt": "xq zv. " * 8}) for row in asked]
    fitting, unfitting = ([score for score in ifd_scores(plain, rows, None) if score] for rows in (asked, noise))
    assert len(fitting) == len(unfitting) > 10
    assert sum(score < 1 for score in fitting) > 0.9 * len(fitting)
    assert sum(fitting) < 0.6 * sum(unfitting)


def test_only_the_last_answer_is_scored(base: LoadedModel) -> None:
    with_it, without = ifd_scores(
        base, [turns("Hello.", "Good day.", "3 + 4 =", "7, I think."), turns("Hello.", "7, I think.")], None
    )
    ids = base.tokenizer.apply_chat_template(
        [turn.as_turn() for turn in turns("Hello.", "Good day.", "3 + 4 =", "7, I think.").messages], return_dict=True
    )["input_ids"]
    answer = base.tokenizer("7, I think.<|im_end|>", add_special_tokens=False)["input_ids"]
    stop = len(ids) - ids[::-1].index(base.tokens.end_of_turn_id)
    expected = mean_loss(base, ids[:stop], stop - len(answer) + 1) / mean_loss(base, answer, 1)
    assert with_it == pytest.approx(expected, rel=1e-4)
    assert with_it != without


def test_batches_do_not_matter(base: LoadedModel) -> None:
    rows = [turns("What is it? " * (number % 5 + 1), f"It is {number}, surely.") for number in range(20)]
    together = ifd_scores(base, rows, None)
    alone = [ifd_scores(base, [row], None)[0] for row in rows]
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    ("row", "max_length"),
    [
        (turns("word " * 60, "The answer is behind the end."), 32),
        (Conversation(id="x", messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Hello.", is_supervised=False))), None),
    ],
    ids=["cut", "not learned"],
)  # fmt: skip
def test_a_row_without_an_answer_to_score_has_no_score(
    base: LoadedModel, row: Conversation, max_length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    good = turns("Hello.", "Good day to you.")
    first, second, third = ifd_scores(base, [good, row, good], max_length)
    assert second is None
    assert first == third
    assert first > 0
    assert "1 of 3 rows have no ifd score" in caplog.text
