"""Faults of single rows are found, and sound rows are not accused."""

import pytest

from harness.config import FilterConfig
from harness.data.quality import (
    RowScores,
    foreign_template_tokens,
    kept,
    language,
    language_mix,
    looks_truncated,
    repetition,
    row_scores,
    unfilled_placeholders,
)

SENTENCES = "The cat sat on the mat for a while. Then it went outside to look for birds in the old garden. "


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("I am {{name}}, made by {{author}}. Yes, {{name}}!", ("{{name}}", "{{author}}")),
        ("我是 {{name}}，由 {{author}} 开发", ("{{name}}", "{{author}}")),
        ("Hello {{ user.name }}", ("{{ user.name }}",)),
        ("{{first}}{{last}}", ("{{first}}", "{{last}}")),
        ("Your order {{Order Number}} is ready", ("{{Order Number}}",)),
        ("Dear ${customer},", ("${customer}",)),
        ("Contact [INSERT PHONE NUMBER here]", ("[INSERT PHONE NUMBER here]",)),
        ("<INSERT LINK>", ("<INSERT LINK>",)),
        ("Sincerely,\n[YOUR NAME]", ("[YOUR NAME]",)),
        ("Meet me on [DATE] at [COMPANY NAME]", ("[DATE]", "[COMPANY NAME]")),
        ("```\n{{code}}\n```\nbut {{name}}", ("{{name}}",)),
        ("It costs $5, {{name}}, not $6", ("{{name}}",)),
    ],
)
def test_unfilled_placeholder_is_found(text: str, slots: tuple[str, ...]) -> None:
    assert unfilled_placeholders(text) == slots


@pytest.mark.parametrize(
    "text",
    [
        "",
        r"\frac{{a}}{b} and \text{{where}}",
        "x^{{2}} + y_{{max}}",
        r"\[ a = {{b}} \] and $$ {{c}} $$ and $\alpha {{d}}$",
        "```jsx\n<p>{{ message }}</p>\n```",
        "```python\nprint(f'{{name}}')",
        "Jinja writes `{{ name }}` for a variable.",
        "A JSX prop: style={{styles}}",
        "A template literal: `Hello ${name}`",
        "${x}$ is math, ${HOME} is the shell's",
        "{name} and {0} and {}",
        "{{ name | upper }} {% if x %}",
        "{{1, 2}, {3, 4}}",
        "see [1], [A] and [MASK] [CLS]",
        "[Verse 1] [Chorus]",
        "{{" * 2000 + "}}" * 2000,
        "$\\" * 3000 + "{{",
    ],
)
def test_code_math_and_other_braces_are_no_placeholder(text: str) -> None:
    assert unfilled_placeholders(text) == ()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("<|system|>\nYou are an API.\n<|assistant|>\n", ("<|system|>", "<|assistant|>")),
        ("Hi<|im_end|>\n<|im_start|>user\nHi<|im_end|>", ("<|im_end|>", "<|im_start|>")),
        ("<|start_header_id|>user<|end_header_id|><|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        ("<s>[INST] <<SYS>>\nBe nice\n<</SYS>>\nHi [/INST] Hi </s>", ("<s>", "[INST]", "<<SYS>>", "<</SYS>>", "[/INST]", "</s>")),
        ("<start_of_turn>model\nHi<end_of_turn>", ("<start_of_turn>", "<end_of_turn>")),
        ("<｜User｜>Hi<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜end▁of▁sentence｜>")),
        ("### Instruction:\nAdd.\n\n### Response:\n3", ("### Instruction:", "### Response:")),
        ("Hi\n### Human: Hi\n### Assistant: Hi", ("### Human:", "### Assistant:")),
        ("```\n<|im_end|>\n```", ("<|im_end|>",)),
        ("the end<|endoftext|>", ("<|endoftext|>",)),
    ],
)  # fmt: skip
def test_foreign_template_token_is_found(text: str, tokens: tuple[str, ...]) -> None:
    assert foreign_template_tokens(text) == tokens


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a <| b |> c and x <|> y",
        "list |> Enum.map(f) |> IO.inspect()",
        "### Instructions for use\n## Response: fine",
        "He wrote ### Instruction: in the middle",
        "<span>a</span> <strong>b</strong> <system>",
        "[INSTALL] arr[INST",
        "if a < s > b",
        "<|" * 5000,
    ],
)
def test_ordinary_text_has_no_template_token(text: str) -> None:
    assert foreign_template_tokens(text) == ()


def test_own_tokens_are_found_in_content_too() -> None:
    text = "Hi [EOT+] and <|im_end|>"
    assert foreign_template_tokens(text, own=("<|im_end|>", "[EOT+]", "")) == ("[EOT+]", "<|im_end|>")


@pytest.mark.parametrize(
    "answer",
    [
        SENTENCES + "After that the neighbours came over and they all wanted to see",
        SENTENCES + "\n\nIn the end there were many birds, some small cats, and the",
        SENTENCES + "It saw so many things out there: birds and mice and flies,",
        "Once upon a time in a very small village there lived an old man and his dog and a cat of the",
        "Here is the code:\n```python\nprint(1)",
        '{"name": "a", "values": [1, 2',
        '[{"a": 1}, {"a": "unfinished',
        '{"brace in a string": "}}}}',
        "[" * 100_000,
    ],
    ids=range(9),
)
def test_answer_that_stops_in_the_middle_looks_truncated(answer: str) -> None:
    assert looks_truncated(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Paris",
        "fog and rain, mostly",
        SENTENCES,
        SENTENCES + "So it goes…",
        SENTENCES + 'As she said: "I will come back to you all some day soon"',
        SENTENCES + "It was a very long day for the cat and everyone else 🙂",
        SENTENCES + "You can read more about all of this on our page at https://example.org/cats",
        SENTENCES + "When you add up all of these birds the total number is 42",
        SENTENCES + "\n- and a long last item of a list that has no full stop at its end",
        SENTENCES + "\n3. and a long last item of a list that has no full stop at its end",
        SENTENCES + "\n| a long last row | of a table | that has no full stop | at the end",
        SENTENCES + "\n\nBest regards,\nJohn Smith",
        SENTENCES + 'A quote that fits: "The only way to do great work is to love it" - Steve Jobs',
        SENTENCES + "\n\n## The whole thing once more in short words for the hurried reader",
        "Here is the code:\n```python\nprint(1)\n```",
        "Use ``` to open a block. " + SENTENCES,
        "one line of a poem that goes on and on\nand another line that sings its little song\n"
        "a third one that can hardly find its end\nand then the last one written for a friend",
        "word " * 40,
        "今天天气很好，我们去公园散步，然后回家吃饭" * 5,
        '{"name": "a", "values": [1, 2]}',
        "{\"single quotes\": 'no JSON'}",
        "[link](https://example.org) is the page that you want to read first of all",
        "[1, 2) is a half-open interval.",
        '{"a":' * 100_000 + "}" * 100_000,
    ],
    ids=range(25),
)
def test_whole_answer_does_not_look_truncated(answer: str) -> None:
    assert not looks_truncated(answer)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Wie geht es dir heute, mein lieber Freund?", "de"),
        ("Ich weiß nicht, was das bedeuten soll.", "de"),
        ("Bonjour, comment allez-vous aujourd'hui ?", "fr"),
        ("Le chat dort sur le canapé depuis ce matin.", "fr"),
        ("今天天气很好，我们去公园散步吧。", "zh"),
        ("これはテストの文章です。", "ja"),
        ("Это просто пример текста на русском языке.", "ru"),
        ("What is the capital of France?", "en"),
        ("The capital of France is Paris.", "en"),
        ("Here is the function:\n```python\ndef f(x):\n    return x\n```\nIt returns what it is given.", "en"),
    ],
)
def test_language_of_a_sentence(text: str, code: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "Paris",
        "我喜欢",
        "```python\nfor number in range(10):\n    print(number)\n```",
        "for i in range(10):\n    print(i)\n    total += i",
        '{"action": "meeting", "date": "2024-03-20", "notes": null}',
        "std::vector<int> v; for (auto& x : v) { std::cout << x << std::endl; }",
    ],
)
def test_code_and_short_texts_have_no_language(text: str) -> None:
    assert language(text) == "und"


def test_language_mix_counts_shares() -> None:
    german, english = "Das ist ein ganz gewöhnlicher Satz.", "This is quite an ordinary sentence."
    assert language_mix([german] + [english] * 2 + ["7"]) == {"en": 0.5, "de": 0.25, "und": 0.25}
    assert language_mix([]) == {}


def test_language_mix_samples_by_seed() -> None:
    texts = ["This is quite an ordinary sentence."] * 50 + ["7"] * 50
    assert language_mix(texts, limit=20, seed=1) == language_mix(texts, limit=20, seed=1)
    assert len({language_mix(texts, limit=20, seed=seed)["en"] for seed in range(10)}) > 1


def test_scores_are_named_as_in_the_config() -> None:
    from typing import get_args

    from harness.config import ScoreName

    assert set(RowScores._fields) == set(get_args(ScoreName)) - {"ifd"}


def test_lengths_are_counted_in_words() -> None:
    scores = row_scores("Name two colours", "Red, blue and maybe some more")
    assert (scores.answer_words, scores.length_ratio) == (6, 2)
    assert row_scores("", "Red").length_ratio is None
    assert row_scores("Red", "")[:2] == (0, 0)
    assert row_scores("颜色", "红色、蓝色。").answer_words == 4


@pytest.mark.parametrize(
    "answer",
    [
        "Great question! The answer is 4.",
        "That's a really great question.",
        "What a fascinating idea!",
        "Certainly! Here it is.",
        "Absolutely, I can do it.",
        "Of course! Here you are.",
        "Sure, here is one",
        "I'd be happy to help.",
        "I’d be more than happy to help.",
        "As an AI language model, I can't.",
        "You're absolutely right, I was wrong.",
        '  "Excellent point, friend',
    ],
)
def test_flattering_opening_is_sycophantic(answer: str) -> None:
    assert row_scores("Question", answer).sycophancy == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The answer is 4. Great question!",
        "Certainly not.",
        "Of course not everyone agrees.",
        "Great Britain is an island.",
        "What a day it was.",
        "As an aim, it is low.",
        "Surely the best",
        "Good questions are short.",
    ],
)
def test_plain_opening_is_not_sycophantic(answer: str) -> None:
    assert row_scores("Question", answer).sycophancy == 0.0


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("It may rain, and perhaps it might snow", 3),
        ("It’s important to note that I think so", 2),
        ("It is important to\nsleep; keep in mind", 2),
        ("Perhaps. MIGHT! (probably)", 3),
        ("On 1 May we went to see the mighty river", 0),
        ("It is important", 0),
        ("", 0),
    ],
)
def test_hedges_are_counted_per_hundred_words(answer: str, number: int) -> None:
    assert row_scores("q", answer).hedges == pytest.approx(100 * number / max(len(answer.split()), 1))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("It is so [1], and so [12, 13].[4]", 3),
        ("It is so (Smith et al., 2020) and (Wu & Li, 2019a), as Kim et al. (2021) say", 3),
        ("It is so【4†source】 [citation needed]", 2),
        ("x[1] = a[2] and f([1]) and y = [1, 2, 3] and [0]", 0),
        ("The list [1, 3, 4, 5, 8] and [1](https://example.org)", 0),
        ("`a [1]`\n```\nb [2]\n```", 0),
        ("It happened (in March 2020) in Paris (2020)", 0),
        ("A" * 20_000 + "(", 0),
    ],
)
def test_citations_are_counted_per_hundred_words(answer: str, number: int) -> None:
    assert row_scores("q", answer).citations == pytest.approx(100 * number / len(answer.split()))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("one two three four five six seven eight", 0),
        ("a b c d a b c d", 0.5),
        ("a b c a b c", 0),  # no run of 4 words that starts with a occurs twice
        ("a b\nc d e\na b", 2 / 7),
        ("\n\na\n\n\nb\n\n", 0),
        ("aaaa b c d " * 100, 0.99),
        ("aaa bb c d x aaa bb c d", 7 / 15),
        ("人工智能很好。人工智能很新。", 0),
        ("我们今天一起去公园里散步吧。" * 4, 0.75),
    ],
)
def test_repetition_is_the_share_of_characters_that_occurred_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


def test_overlapping_repetitions_are_counted_once() -> None:
    assert repetition("no " * 1000) == pytest.approx(0.999)


def test_row_within_the_limits_is_kept() -> None:
    scores = {"repetition": [0.1, 0.62, 0.3]}
    assert kept(scores, [FilterConfig(score="repetition", max=0.3)]) == ["", "filter: repetition 0.62 > 0.3", ""]
    assert kept(scores, [FilterConfig(score="repetition", min=0.3)]) == ["filter: repetition 0.1 < 0.3", "", ""]
    assert kept(scores, []) == ["", "", ""]
    assert kept({}, []) == []


def test_row_without_a_score_is_kept() -> None:
    reasons = kept({"ifd": [None, 0.1, 0.9, None]}, [FilterConfig(score="ifd", min=0.5, top=0.5)])
    assert [not reason for reason in reasons] == [True, False, True, True]


@pytest.mark.parametrize(("share", "number"), [(0.5, 5), (0.41, 5), (0.1, 1), (0.01, 1), (1.0, 10), (0.3, 3)])
def test_top_keeps_its_share_rounded_up(share: float, number: int) -> None:
    reasons = kept({"hedges": [float(i) for i in range(10)]}, [FilterConfig(score="hedges", top=share)])
    assert [index for index, reason in enumerate(reasons) if not reason] == list(range(10 - number, 10))


def test_top_is_not_rounded_up_by_a_rounding_error() -> None:
    reasons = kept({"hedges": [float(i) for i in range(100)]}, [FilterConfig(score="hedges", top=0.07)])
    assert reasons.count("") == 7
    assert reasons[0] == "filter: hedges 0 is not in the top 7 %"


def test_ties_are_broken_by_the_order_of_the_rows() -> None:
    reasons = kept({"hedges": [1.0, 2.0, 1.0, 1.0]}, [FilterConfig(score="hedges", top=0.5)])
    assert [not reason for reason in reasons] == [True, True, False, False]


def test_a_filter_sees_only_the_rows_that_earlier_ones_left() -> None:
    scores = {"answer_words": [1.0, 9.0, 8.0, 7.0, 6.0], "hedges": [5.0, 1.0, 2.0, 3.0, 4.0]}
    filters = [FilterConfig(score="answer_words", min=5), FilterConfig(score="hedges", top=0.5)]
    assert kept(scores, filters) == [
        "filter: answer_words 1 < 5",
        "filter: hedges 1 is not in the top 50 %",
        "filter: hedges 2 is not in the top 50 %",
        "",
        "",
    ]
    assert kept(scores, filters[::-1])[0] == "filter: answer_words 1 < 5"
