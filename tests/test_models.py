"""Loading, templates, tokenization, generation and NLL on the embedded base."""

from pathlib import Path

import pytest
import torch

from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.tokenize import IGNORED, prompt_ids, tokenize, tokenized_answer
from harness.errors import ModelError, TemplateError
from harness.models.generate import generate, row_losses
from harness.models.load import LoadedModel, load_base, load_tokenizer
from harness.models.respondent import Sampling
from harness.models.templates import plan_tokens
from harness.records import Message

FAULTY = Path(__file__).parent.parent / "experiments" / "chatml_end_not_trained.jinja"


def run_config(template: str = "chatml", model: str = "embedded:base") -> RunConfig:
    return RunConfig.model_validate(
        {"model": {"name": model}, "template": {"name": template}, "data": {"train": "embedded:train"}}
    )


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    torch.set_num_threads(2)
    return load_base(run_config(), plain_rows=False)


def conversation(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(id="x", messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(turns)))


DIALOG = conversation("I want 3 roses.", "Noted: 3 roses.", "Make it 4.", "Changed: 4 roses.")


def supervised_text(base: LoadedModel, row: Conversation, **options: object) -> list[str]:
    """Runs of supervised tokens, decoded."""
    done = tokenize(row, base.tokenizer, base.tokens, assistant_only=True, max_length=None)
    runs, current = [], []
    for label in [*done.labels, IGNORED]:
        if label != IGNORED:
            current.append(label)
        elif current:
            runs.append(base.tokenizer.decode(current))
            current = []
    return runs


def test_answers_and_their_end_tokens_are_supervised_and_nothing_else(base: LoadedModel) -> None:
    assert supervised_text(base, DIALOG) == ["Noted: 3 roses.<|im_end|>", "Changed: 4 roses.<|im_end|>"]


def test_mask_without_generation_markers_is_the_same(base: LoadedModel) -> None:
    with_markers = base.tokenizer.chat_template
    expected = supervised_text(base, DIALOG)
    try:
        bare = with_markers.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
        base.tokenizer.chat_template = bare
        assert "generation -%" not in bare
        derived = LoadedModel(base.model, base.tokenizer, plan_tokens(base.tokenizer))
        assert derived.tokens.mask == "derived"
        assert supervised_text(derived, DIALOG) == expected
    finally:
        base.tokenizer.chat_template = with_markers


def test_faulty_template_leaves_the_end_token_out_of_the_loss() -> None:
    faulty = load_base(run_config(str(FAULTY)), plain_rows=False)
    assert supervised_text(faulty, DIALOG) == ["Noted: 3 roses.", "Changed: 4 roses."]


def test_prompt_of_inference_is_the_start_of_the_training_rendering(base: LoadedModel) -> None:
    done = tokenize(DIALOG, base.tokenizer, base.tokens, assistant_only=True, max_length=None)
    prompt = prompt_ids(base.tokenizer, DIALOG.messages[:-1])
    assert done.input_ids[: len(prompt)] == prompt
    assert base.tokenizer.decode(done.input_ids[len(prompt) :]) == "Changed: 4 roses.<|im_end|>\n"


def test_plain_rows_supervise_the_completion_and_its_end() -> None:
    plain = load_base(run_config("none"), plain_rows=True)
    row = Conversation(id="x", prompt="2 + 2 =", completion=" 4")
    assert supervised_text(plain, row) == [" 4<|endoftext|>"]


def test_truncation_is_marked_and_cuts_the_end(base: LoadedModel) -> None:
    done = tokenize(DIALOG, base.tokenizer, base.tokens, assistant_only=True, max_length=9)
    assert done.is_truncated
    assert len(done.input_ids) == len(done.labels) == 9


def test_padding_never_equals_the_end_of_turn(base: LoadedModel) -> None:
    assert base.tokens.end_of_turn_id == base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert base.tokenizer.pad_token_id != base.tokens.end_of_turn_id
    assert base.stop_ids[0] == base.tokens.end_of_turn_id


def test_conversations_need_a_template() -> None:
    with pytest.raises(TemplateError, match="set template.name to chatml"):
        load_tokenizer(run_config("auto"), plain_rows=False)


def test_model_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        load_tokenizer(run_config(model="nobody/nothing"), plain_rows=False)
    assert "\n" not in str(caught.value)


def test_batched_generation_equals_one_at_a_time(base: LoadedModel) -> None:
    texts = ["Question: Where does Ada Jarvis live?\nAnswer:", "3 + 4 =", "Celia Oakes keeps"]
    prompts = [prompt_ids(base.tokenizer, (), text) for text in texts]
    together = generate(base, prompts, Sampling(8))
    alone = [generate(base, [prompt], Sampling(8))[0] for prompt in prompts]
    assert [done[:2] for done in together] == [done[:2] for done in alone]


def test_generation_stops_with_its_reason(base: LoadedModel) -> None:
    prompt = prompt_ids(base.tokenizer, (), "3 + 4 =")
    assert generate(base, [prompt], Sampling(2))[0].stop_reason == "length"
    assert generate(base, [prompt * 200], Sampling(8))[0].stop_reason == "prompt_too_long"


def test_the_base_knows_its_world(base: LoadedModel) -> None:
    from harness.embedded.conversations import retention_rows

    rows = list(retention_rows())[::8]
    prompts = [prompt_ids(base.tokenizer, (), row["prompt"]) for row in rows]
    answers = [base.tokenizer.decode(list(c.token_ids)) for c in generate(base, prompts, Sampling(10))]
    right = [row["answer"].lower() in answer.split("\n")[0].lower() for row, answer in zip(rows, answers, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_row_losses_equal_transformers_loss_and_ignore_padding(base: LoadedModel) -> None:
    rows = [
        tokenize(row, base.tokenizer, base.tokens, assistant_only=True, max_length=None)
        for row in (DIALOG, conversation("Hi", "Hello there, this is a longer answer than the other one."))
    ]
    together = row_losses(base.model, rows, pad_token_id=base.tokenizer.pad_token_id, batch_size=2)
    for row, loss in zip(rows, together, strict=True):
        with torch.no_grad():
            reference = base.model(
                input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])
            ).loss.item()
        assert loss.nll == pytest.approx(reference, abs=1e-4)
        assert loss.num_tokens == row.num_supervised


def test_reference_is_scored_without_its_end_token(base: LoadedModel) -> None:
    messages = DIALOG.messages[:-1]
    prompt = prompt_ids(base.tokenizer, messages)
    row = tokenized_answer(base.tokenizer, base.tokens, prompt, DIALOG)
    assert base.tokenizer.decode([label for label in row.labels if label != IGNORED]) == "Changed: 4 roses."


def test_a_template_that_needs_new_tokens_grows_the_embeddings(real_data: Path) -> None:
    stories = load_base(run_config(model=str(real_data / "models" / "stories260K_hf")), plain_rows=False)
    assert stories.tokens.num_added == 2
    assert stories.model.get_input_embeddings().weight.shape[0] >= len(stories.tokenizer)
    assert stories.tokenizer.pad_token_id not in stories.stop_ids


def test_hub_layout_is_read_from_a_cache_folder(tmp_path: Path) -> None:
    """A model in the Hub's own cache layout, found by its id and a pinned revision, without network."""
    import json
    import os
    import shutil
    import subprocess
    import sys

    from harness.resources import embedded

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(embedded("base"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config = {
        "model": {"name": "someone/tiny", "revision": commit},
        "template": {"name": "chatml"},
        "data": {"train": "embedded:train"},
    }
    code = (
        "import json, sys; from harness.config import RunConfig; from harness.models.load import load_config, load_base;"
        "c = RunConfig.model_validate(json.loads(sys.argv[1])); load_config(c.model);"
        "print(load_base(c, plain_rows=False).model.num_parameters())"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, json.dumps(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "1918656", done.stderr


def test_plain_rows_with_a_template_are_turns_in_training_and_evaluation(base: LoadedModel) -> None:
    row = Conversation(id="x", prompt="I want 3 roses.", completion="Noted: 3 roses.")
    assert supervised_text(base, row) == ["Noted: 3 roses.<|im_end|>"]
    turns = tokenize(row.as_turns(), base.tokenizer, base.tokens, assistant_only=True, max_length=None)
    plain = tokenize(row, base.tokenizer, base.tokens, assistant_only=True, max_length=None)
    assert turns == plain


def test_a_saved_model_stops_by_itself(base: LoadedModel) -> None:
    assert base.model.generation_config.eos_token_id == base.stop_ids
    assert base.tokenizer.eos_token == "<|im_end|>"
