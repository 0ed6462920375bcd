"""Loops and endings of single texts; values worked out by hand."""

import pytest

from harness.scoring.endings import continues_after_answer, ends_in_a_loop, never_stops
from harness.scoring.repetition import duplicate_lines, repetition_failure
from harness.scoring.similarity import compression_ratio, distinct_share, ngrams, pairwise_similarity, share_in

PROSE = (
    "The harbour lies behind two long walls of grey stone. In winter fishing boats come in before dark, and their crews mend nets "
    "under yellow lamps. A bakery at the corner sells rye bread from four in the morning. Children walk past it on their way to a "
    "school that was once a customs house, and old men argue about football on benches near the ferry. When fog rolls over the "
    "hills, a horn answers every minute, so nobody needs a clock. Visitors like to climb the lighthouse, whose keeper retired in "
    "1987 and left behind a logbook full of storms, whales and misspelled names."
)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("the cat sat " * 60, "top_2_gram"),
        ("ha " * 300, "top_2_gram"),
        ("我喜欢吃苹果。" * 40, "top_2_gram"),
        ('" ' * 60, "top_2_gram"),
        ("a" * 5000, "top_2_gram"),
        (f"{PROSE} {PROSE} {PROSE}", "duplicate_5_gram"),
        ("one two three four five six seven. " * 4, "top_4_gram"),
    ],
)
def test_loops_are_found(text: str, failure: str) -> None:
    assert repetition_failure(text) == failure


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROSE,
        f"{PROSE} {PROSE[:60]}",
        "no no no no no",
        "1. How was the room? 2. How was the quality of the food? 3. Would you stay again? 4. Would you tell friends about it?",
        "[" + ", ".join(f'{{"name": "n{i}", "age": {i + 20}}}' for i in range(30)) + "]",
        "港口位于两道灰色石墙后面,冬天渔船在天黑之前回来,船员们在黄色的灯下修补渔网,孩子们从面包店旁边走去学校。",
        "http://example.org/" + "".join(chr(97 + i * 7 % 26) for i in range(26)),
    ],
)
def test_ordinary_texts_are_not_loops(text: str) -> None:
    assert repetition_failure(text) == ""


def test_repeated_lines_are_counted_from_three_words_on() -> None:
    assert duplicate_lines("go to the market\n" * 3 + "come home again now") == 0.5
    assert duplicate_lines("}\n" * 20) == 0.0


@pytest.mark.parametrize(
    "text", ["x" * 10**6, "ab " * 10**5, "(" * 10**5, "\n" * 10**5, "\ud800" * 1000, "a:\n" * 10**5, "# " * 10**5]
)
def test_hostile_texts_are_answered(text: str) -> None:
    assert isinstance(repetition_failure(text), str)
    assert isinstance(never_stops(text, "Input: x\nOutput:"), str)


PROMPT = "Turn the sentence into a question for a teacher.\n\nInput: It rains.\nOutput:"


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        (" Does it rain?\n\nInput: It snows.\nOutput: Does it snow?", PROMPT, True),
        (" Does it rain?\nOutput: Does it?\nOutput: It does.", PROMPT, True),
        (" Does it rain?\n\nTurn the sentence into a question for a teacher.\n\nInput: Go.", PROMPT, True),
        (" Does it rain?\n### Instruction:\nName a bird.", "Ask.", True),
        (" Does it rain?\n<|im_start|>user\nNext", "Ask.", True),
        (" Does it rain?", PROMPT, False),
        (" Let's see. It rains, so we ask.\nOutput: Does it rain?", PROMPT, False),
        ("Name: Ann\nAge: 5", "Fill in.\nName:\nAge:\nCity of birth, please", False),
        ("", PROMPT, False),
    ],
)
def test_going_on_with_another_prompt(text: str, prompt: str, expected: bool) -> None:
    assert continues_after_answer(text, prompt) is expected


def test_a_loop_to_the_very_end_is_found_and_one_before_the_end_is_not() -> None:
    loop = "We want to see your project!\n" * 5
    assert ends_in_a_loop("Well. " + loop + "We want to see")
    assert not ends_in_a_loop(
        loop + "That is all that the organizers ask for, and prizes are announced in the spring of next year."
    )
    assert not ends_in_a_loop("We want to see your project!\n" * 2)


def test_reasons_of_never_stopping_are_told_apart() -> None:
    assert never_stops(" a?\n\nInput: b\nOutput: b?", PROMPT) == "goes on with another prompt"
    assert never_stops("Sincerely, " * 30, PROMPT) == "repeats itself to the very end"
    assert never_stops(PROSE, PROMPT) == ""


def test_similarity_measures() -> None:
    assert distinct_share([ngrams("a b c", 2), ngrams("a b d", 2)]) == 3 / 4
    assert distinct_share([ngrams("a", 2)]) is None
    assert pairwise_similarity(["a b", "a c", "a b"]) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert pairwise_similarity(["", "a"]) is None
    assert share_in(ngrams("The cat sat", 2), {("the", "cat")}) == 0.5
    assert compression_ratio([]) is None
    alike, varied = compression_ratio([PROSE] * 3), compression_ratio([PROSE])
    assert alike is not None and varied is not None and alike > 2 * varied
