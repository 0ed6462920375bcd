"""The model card: valid for the Hub, true to the records, and safe whatever models and users wrote."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from harness.cards.subject import CardSubject
from harness.cli.main import main
from harness.config import ModelConfig
from harness.eval_config import SourceConfig
from harness.gates import per_example
from harness.model_card import card_text, is_hub_id, subject_of
from harness.ranking import Exclusion, Ranking, RankingRow
from harness.records import Estimate, Finding
from harness.targets import find_cell

HEADINGS = [
    "How to load", "Performance metrics", "Known limitations", "Dataset characteristics", "Template", "Training parameters",
    "How it was made",
]  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil.example/t.png) [click](javascript:alert(1)) `</details><img src=x onerror=alert(1)>` "
    "a | b | c\n\n# Heading\n- item\n\n```\nhttp://evil.example www.evil.example me@evil.example *stars* _under_ \\| <!-- "
)


@pytest.fixture
def subject(trained: Path, monkeypatch: pytest.MonkeyPatch) -> CardSubject:
    monkeypatch.chdir(trained)
    return subject_of(find_cell("lora"))


def sections(card: str) -> dict[str, str]:
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", card, flags=re.DOTALL | re.MULTILINE))


def ranking(subject: CardSubject, **changes: object) -> Ranking:
    row = RankingRow(
        rank=1, rank_interval=(1, 2), in_best_set=True, cell=subject.result.cell, cells=(subject.result.cell, "other"), name="lora",
        seed_count=2, mlflow_run_ids=(), findings=(),
        metrics={"held_out.nll": Estimate(value=1.5, low=1.25, high=1.75, n=8)},
        difference_to_best=Estimate(value=-0.5, low=-0.75, high=-0.25, n=8),
    )  # fmt: skip
    return Ranking(
        experiment="tiny", criterion="held_out.nll", gates=(), rows=(row.model_copy(update=changes), row.model_copy(update={"cells": ()})),
        excluded=(), references=(), num_examples=8, minimum_detectable_difference=None, caveats=(),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "merged"), [("full", False), ("lora", False), ("lora", True)])
def test_metadata_survive_the_hubs_own_reader(trained: Path, monkeypatch: pytest.MonkeyPatch, name: str, merged: bool) -> None:  # fmt: skip
    monkeypatch.chdir(trained)
    subject = subject_of(find_cell(name))
    text = card_text(subject, merged=merged)
    card = ModelCard(text)
    data = card.data
    assert data.library_name == ("peft" if name == "lora" and not merged else "transformers")
    assert data.pipeline_tag == "text-generation"
    assert {"trl", "sft"} <= set(data.tags)
    assert ("lora" in data.tags) == (name == "lora")
    assert data.language == ["en"]
    assert data.base_model is None
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {key: pytest.approx(value.value, abs=1e-6) for key, value in subject.result.metrics().items()}
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == f"tiny: {name}"
    assert list(sections(card.text)) == HEADINGS


def test_hub_ids_are_named_in_the_metadata(subject: CardSubject) -> None:
    config = subject.config
    named = config.model_copy(
        update={
            "model": ModelConfig(name="HuggingFaceTB/SmolLM2-135M"),
            "data": config.data.model_copy(
                update={
                    "train": (SourceConfig(path="org/rows"),),
                    "test": (SourceConfig(path="org/rows", split="test"),),
                }
            ),
        }
    )
    cell = subject.spec.cell.model_copy(update={"config": named})
    changed = subject._replace(spec=subject.spec.model_copy(update={"cell": cell}))
    for merged, relation in ((False, "adapter"), (True, "finetune")):
        data = ModelCard(card_text(changed, merged=merged)).data
        assert (data.base_model, data.base_model_relation) == ("HuggingFaceTB/SmolLM2-135M", relation)
        assert data.datasets == ["org/rows"]
        assert {(r.dataset_type, r.dataset_split) for r in data.eval_results} == {("org/rows", "test")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("embedded:base", False),
        ("data/train.jsonl", False),
        ("data/*.parquet", False),
        ("/srv/models/mine", False),
        ("../models", False),
        ("gpt2", False),
    ],
)
def test_only_hub_ids_are_taken_for_them(name: str, expected: bool) -> None:
    assert is_hub_id(name) is expected


def test_data_and_training_are_as_recorded(subject: CardSubject) -> None:
    found = sections(card_text(subject))
    split = subject.train.splits["train"]
    row = f"| train | `roses.jsonl` | 40 | 40 | {split.tokens:,} | {split.supervised_tokens:,} | 0 | `{split.digest}` |"
    assert row in found["Dataset characteristics"]
    assert "1 missing_assistant_turn" in found["Dataset characteristics"]
    assert "| learning_rate | `0.005` |" in found["Training parameters"]
    assert "| adapter.r | `8` |" in found["Training parameters"]
    assert "| steps | 3 (" in found["Training parameters"]
    shown, _, folded = found["Training parameters"].partition("<details>")
    assert "adam_epsilon" not in shown
    assert "adam_epsilon" in folded
    assert subject.result.mlflow_run_id in found["How it was made"]


def test_numbers_stand_beside_the_base(subject: CardSubject) -> None:
    ours, theirs = (per_example(result, "held_out.nll") for result in (subject.result, subject.base))
    difference = float(np.mean([ours[key] - theirs[key] for key in ours]))
    lines = sections(card_text(subject))["Performance metrics"].splitlines()
    (line,) = [line for line in lines if line.startswith("| held_out.nll")]
    name, value, n, base, apart = [cell.strip() for cell in line.strip("|").split("|")]
    assert name == "held_out.nll (less is better)"
    assert value.startswith(f"{np.mean(list(ours.values())):.3f} [")
    assert n == "8"
    assert base.startswith(f"{np.mean(list(theirs.values())):.3f} [")
    assert apart.startswith(f"{difference:+.3f} [")


def test_the_base_is_left_out_where_it_was_asked_otherwise(subject: CardSubject) -> None:
    suites = tuple(suite.model_copy(update={"digest": "else"}) for suite in subject.base.suites)
    text = card_text(subject._replace(base=subject.base.model_copy(update={"suites": suites})))
    assert "difference to the untouched base" not in text


def test_the_place_in_the_ranking_is_told_with_its_uncertainty(subject: CardSubject) -> None:
    confirmed = Estimate(value=1.6, low=1.1, high=2.1, n=20)
    text = card_text(subject._replace(ranking=ranking(subject, confirmed=confirmed)))
    assert "Ranked between 1 and 2 of 2 by held_out.nll on 8 examples and 2 training seeds: no other is surely better." in text  # fmt: skip
    assert "Mean of the configuration over its seeds: 1.500 [1.250, 1.750]." in text
    assert "Difference to the best: -0.500 [-0.750, -0.250]." in text
    assert "Confirmed on 20 examples that took no part in choosing: 1.600 [1.100, 2.100]." in text
    assert "optimistic" not in text
    assert "optimistic" in card_text(subject._replace(ranking=ranking(subject)))


def test_the_reason_for_not_being_ranked_is_told(subject: CardSubject) -> None:
    out = Exclusion(cell=subject.result.cell, name="lora", reason="held_out.nll is 9.000, not <= 2")
    made = ranking(subject).model_copy(update={"rows": (), "excluded": (out,)})
    assert "Not ranked: held_out.nll is 9.000, not &lt;= 2." in card_text(subject._replace(ranking=made))
    assert "Not ranked yet." in card_text(subject._replace(ranking=None))


def test_findings_become_known_limitations(subject: CardSubject) -> None:
    fired = Finding(
        check="overfitting", outcome="fired", severity="warning", message="Up by 3 %.", advice="Stop at step 2."
    )
    clear = Finding(check="diverged", outcome="clear", severity="error", message="It fell.")
    unsure = Finding(check="plateau", outcome="insufficient", severity="info", message="3 steps.")
    limits = sections(card_text(subject._replace(findings=(fired, clear, unsure))))["Known limitations"]
    assert "- **overfitting** (warning): Up by 3 %. What to do: Stop at step 2." in limits
    assert "diverged" not in limits
    assert "Not enough evidence to judge: plateau." in limits
    assert "Measured on held_out (8 examples) alone, with greedy decoding and at most 12 new tokens." in limits
    assert "Whether it forgot what the base knew was not measured." in limits
    assert "One training seed" in limits


def test_hostile_text_is_shown_and_never_markup(subject: CardSubject) -> None:
    fired = Finding(check="format", outcome="fired", severity="error", message=HOSTILE, advice=HOSTILE)
    train = subject.train.model_copy(update={"settings": {**subject.train.settings, "training.run_name": HOSTILE}})
    cell = subject.spec.cell.model_copy(update={"name": HOSTILE})
    changed = subject._replace(
        findings=(fired,),
        spec=subject.spec.model_copy(update={"cell": cell}),
        result=subject.result.model_copy(update={"name": HOSTILE, "train": train, "suite_errors": {HOSTILE: HOSTILE}}),
    )
    card = ModelCard(card_text(changed))
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card.text)
    assert not re.search(r"<(script|img|a [^>]*(evil|javascript)|h1>Heading|em|strong>stars)", html)
    assert html.count("<h2>") == len(HEADINGS)
    assert html.count("<details>") == html.count("</details>")
    assert "&lt;script&gt;alert(1)" in html
    columns = [row.count("<td") for row in re.findall(r"<tr>\n<td.*?</tr>", html, flags=re.DOTALL)]
    assert set(columns) <= {2, 5, 8}


def test_no_row_of_the_data_is_on_the_card(subject: CardSubject) -> None:
    text = card_text(subject)
    assert "{user}<|im_end|>" in sections(text)["Template"]
    assert "```jinja" in sections(text)["Template"]
    assert "roses." not in text.replace("roses.jsonl", "")


def test_the_experiment_file_on_the_card_makes_the_same_cell(subject: CardSubject, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from harness.plan import plan_experiment

    (content,) = re.findall(r"```yaml\n(.*?)```", card_text(subject), flags=re.DOTALL)
    # Its data are named from their own folder on.
    data = Path(subject.config.data.train[0].path).parent
    monkeypatch.chdir(data)
    (data / "again.yaml").write_text(content)
    assert [cell.id for cell in plan_experiment("again.yaml").cells] == [subject.result.cell]


def test_the_card_needs_no_torch(trained: Path) -> None:
    code = (
        "import sys; from harness.cli.main import main; main(['card', 'full', '--output', sys.argv[1]], standalone_mode=False); "
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'datasets') if name in sys.modules])"
    )
    output = trained.parent / "card.md"
    command = [sys.executable, "-c", code, str(output)]
    done = subprocess.run(command, cwd=trained, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(output), "[]"]
    assert output.read_text().startswith("---\n")


def test_a_reference_has_no_card(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    done = CliRunner().invoke(main, ["card", "base"])
    assert done.exit_code == 2
    assert "base: a reference is not trained here, so it has no model of its own; name a cell" in done.stderr
