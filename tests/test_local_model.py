"""The in-process respondent: what it was asked before it need not be loaded for."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.tokenize import prompt_ids
from harness.models.answer_cache import AnswerCache
from harness.models.few_shot import NEXT_QUESTION, Shots, choose_shots, ended_answer
from harness.models.generate import generate
from harness.models.identity import answers_key
from harness.models.load import LoadedModel, LoadedTokenizer, load_base, load_tokenizer
from harness.models.local import LocalModel
from harness.models.respondent import Sampling
from harness.records import Example, Expectation, Message

CONFIG = RunConfig.model_validate(
    {"model": {"name": "embedded:base"}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
)
QUESTIONS = [
    Example(id="a", text="Question: Where does Ada Jarvis live?\nAnswer:", reference="Elm Street", choices=("Elm Street", "Oak Lane")),
    Example(id="b", text="3 + 4 =", reference="7"),
]  # fmt: skip


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    torch.set_num_threads(1)
    return load_base(CONFIG, plain_rows=False)


def respondent(base: LoadedModel, folder: Path, **options) -> LocalModel:
    tokenizer = LoadedTokenizer(base.tokenizer, base.tokens)
    return LocalModel(tokenizer, lambda: base, AnswerCache(folder / "answers.jsonl"), **options)


def never() -> LoadedModel:
    raise AssertionError("the model was loaded")


def test_what_was_asked_before_needs_no_model(base: LoadedModel, tmp_path: Path) -> None:
    first = respondent(base, tmp_path)
    asked = first.generations(QUESTIONS, as_text=True, sampling=Sampling(8))
    losses = first.reference_losses(QUESTIONS, as_text=True)
    again = LocalModel(LoadedTokenizer(base.tokenizer, base.tokens), never, AnswerCache(tmp_path / "answers.jsonl"))
    assert again.generations(QUESTIONS, as_text=True, sampling=Sampling(8)) == asked
    assert again.reference_losses(QUESTIONS, as_text=True) == losses


def test_other_sampling_is_asked_anew(base: LoadedModel, tmp_path: Path) -> None:
    respondent(base, tmp_path).generations(QUESTIONS, as_text=True, sampling=Sampling(8))
    again = LocalModel(LoadedTokenizer(base.tokenizer, base.tokens), never, AnswerCache(tmp_path / "answers.jsonl"))
    with pytest.raises(AssertionError, match="was loaded"):
        again.generations(QUESTIONS, as_text=True, sampling=Sampling(9))


def test_half_a_line_of_a_killed_process_is_forgotten(base: LoadedModel, tmp_path: Path) -> None:
    respondent(base, tmp_path).generations(QUESTIONS, as_text=True, sampling=Sampling(8))
    file = tmp_path / "answers.jsonl"
    file.write_text(file.read_text()[:-20])
    answered = respondent(base, tmp_path).generations(QUESTIONS, as_text=True, sampling=Sampling(8))
    assert len(answered) == 2
    assert len(AnswerCache(file)._known) == 2


def test_samples_differ_and_repeat_with_their_seed(base: LoadedModel) -> None:
    prompt = prompt_ids(base.tokenizer, (), "The garden of")
    warm = Sampling(12, num_samples=4, temperature=1.0, seed=3)
    one, two = generate(base, [prompt], warm), generate(base, [prompt], warm)
    assert [done.token_ids for done in one] == [done.token_ids for done in two]
    assert len({done.token_ids for done in one}) > 1
    assert len({done.token_ids for done in generate(base, [prompt], warm._replace(temperature=0.0))}) == 1


def test_choice_logprobs_are_those_of_the_whole_text(base: LoadedModel, tmp_path: Path) -> None:
    found = respondent(base, tmp_path).choice_logprobs(QUESTIONS, as_text=True)
    assert list(found) == ["a"]
    prompt, whole = (
        base.tokenizer(text, return_tensors="pt")["input_ids"] for text in (QUESTIONS[0].text, f"{QUESTIONS[0].text} Oak Lane")
    )  # fmt: skip
    with torch.no_grad():
        logprobs = base.model(input_ids=whole).logits[0].log_softmax(-1)
    place = prompt.shape[1]
    by_hand = sum(float(logprobs[i - 1, whole[0, i]]) for i in range(place, whole.shape[1]))
    assert found["a"][1] == pytest.approx(by_hand, abs=1e-3)


def test_a_prefill_is_part_of_the_prompt_and_not_of_the_answer(base: LoadedModel, tmp_path: Path) -> None:
    example = Example(
        id="p",
        messages=(Message(role="user", content="Count."),),
        reference="one two",
        expect=Expectation(prefill="one"),
    )
    generation = respondent(base, tmp_path).generations([example], as_text=False, sampling=Sampling(4))[0][0]
    assert generation.prompt.endswith("<|im_start|>assistant\none")


def rows(count: int) -> list[Conversation]:
    return [
        Conversation(
            id=str(n),
            index=n,
            messages=(Message(role="user", content=f"Q{n}"), Message(role="assistant", content=f"A{n}")),
        )
        for n in range(count)
    ]


def test_few_shot_of_a_base_without_template_is_a_transcript(base: LoadedModel, tmp_path: Path) -> None:
    shots = choose_shots(rows(20), 2, as_transcript=True)
    asked = Example(id="x", messages=(Message(role="user", content="Q?"),), reference="A")
    generation = respondent(base, tmp_path, shots=shots).generations([asked], as_text=False, sampling=Sampling(4))[0][0]
    first, second = (example.messages[0].content for example in shots.examples)
    assert generation.prompt.startswith(f"Question: {first}\n\nAnswer: A")
    assert f"Question: {second}\n\n" in generation.prompt
    assert generation.prompt.endswith("Question: Q?\n\nAnswer:")


def test_few_shot_of_a_chat_base_shows_turns_after_the_system_prompt() -> None:
    shots = choose_shots(rows(20), 1, as_transcript=False)
    asked = (Message(role="system", content="Be kind."), Message(role="user", content="Q?"))
    assert [turn.role for turn in shots.turns(asked)] == ["system", "user", "assistant", "user"]


def test_a_transcript_ends_where_the_next_question_begins() -> None:
    assert ended_answer(" Elm Street.\n\nQuestion: Who?", NEXT_QUESTION) == ("Elm Street.", True)
    assert ended_answer(" Elm Street.", NEXT_QUESTION) == ("Elm Street.", False)


def test_plain_shots_end_at_what_stands_between_them() -> None:
    plain = Example(id="p", text="Translate: a -> ", reference="b")
    paragraphs = Example(id="q", text="Write.", reference="one\n\ntwo")
    assert Shots((plain,), as_transcript=False).plain("Translate: c -> ") == "Translate: a -> b\n\nTranslate: c -> "
    assert Shots((plain, paragraphs), as_transcript=False).separator == "\n\n###\n\n"


def test_a_reference_that_brings_its_blank_gets_no_second_one(base: LoadedModel, tmp_path: Path) -> None:
    asked = Example(id="x", text="She loves", reference="daisies", choices=("daisies", "roses"))
    blank = asked.model_copy(update={"id": "y", "reference": " daisies", "choices": (" daisies", " roses")})
    model = respondent(base, tmp_path)
    losses = model.reference_losses([asked, blank], as_text=True)
    assert losses["x"] == losses["y"]
    choices = model.choice_logprobs([asked, blank], as_text=True)
    assert choices["x"] == choices["y"]


def test_a_prefill_of_a_plain_prompt_is_counted_once(base: LoadedModel, tmp_path: Path) -> None:
    whole = Example(id="x", text="She", reference="loves daisies")
    begun = whole.model_copy(update={"id": "y", "expect": Expectation(prefill="loves")})
    model = respondent(base, tmp_path)
    asked = model.generations([begun], as_text=True, sampling=Sampling(2))[0][0]
    assert asked.prompt.endswith("She loves")
    losses = model.reference_losses([whole, begun], as_text=True)
    assert losses["y"].num_tokens < losses["x"].num_tokens


def test_a_models_own_decoding_settings_are_no_part_of_the_ruler(base: LoadedModel) -> None:
    prompts = [prompt_ids(base.tokenizer, (), text) for text in ("The garden of", "Question: Who is Ada?\nAnswer:")]
    plain = [done[:2] for done in generate(base, prompts, Sampling(16))]
    own = base.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size = 1.8, 2
    try:
        assert [done[:2] for done in generate(base, prompts, Sampling(16))] == plain
        assert base.model.generation_config is own
    finally:
        own.repetition_penalty, own.no_repeat_ngram_size = 1.0, 0


def test_an_adapters_own_decoding_settings_come_back(base: LoadedModel) -> None:
    adapted = get_peft_model(copy.deepcopy(base.model), LoraConfig(r=2, target_modules="all-linear"))
    loaded = LoadedModel(adapted, base.tokenizer, base.tokens)
    prompts = [prompt_ids(base.tokenizer, (), "The garden of")]
    plain = generate(loaded, prompts, Sampling(12))[0].token_ids
    adapted.generation_config.repetition_penalty = 1.8
    assert generate(loaded, prompts, Sampling(12))[0].token_ids == plain
    assert adapted.generation_config.repetition_penalty == 1.8
    assert adapted.get_base_model().generation_config.repetition_penalty == 1.8


def test_a_retrained_adapter_has_another_key(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(CONFIG, plain_rows=False)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"first")
    keys = [answers_key(CONFIG, tokenizer, tmp_path), answers_key(CONFIG, tokenizer, None)]
    weights.write_bytes(b"other")
    keys.append(answers_key(CONFIG, tokenizer, tmp_path))
    tokenizer.tokenizer.chat_template += " "
    keys.append(answers_key(CONFIG, tokenizer, tmp_path))
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"dtype": "bfloat16"})})
    keys.append(answers_key(other, tokenizer, tmp_path))
    assert len(set(keys)) == len(keys)
