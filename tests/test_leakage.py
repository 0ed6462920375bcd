"""Duplicates and leaks are found, and what only looks like one is not."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from harness.data.leakage import Overlap, exact_duplicates, near_duplicates, overlap

NOTHING = Overlap((), (), ())


def sentence(seed: int, num_words: int = 40) -> str:
    """Words that no other seed shares."""
    generator = random.Random(seed)
    return " ".join(f"w{seed}x{generator.randrange(10**6)}" for _ in range(num_words))


def changed(text: str, *positions: int) -> str:
    """The text with other words at these positions."""
    words = text.split()
    for position in positions:
        words[position] = f"changed{position}"
    return " ".join(words)


def test_case_and_blanks_make_no_difference_to_an_exact_duplicate() -> None:
    texts = ["What is  it?", "other", "what IS\nit? ", "Other", "what is it"]
    assert exact_duplicates(texts) == [(0, 2), (1, 3)]


def test_empty_texts_are_no_duplicates() -> None:
    assert exact_duplicates(["", " ", "\n"]) == []
    assert near_duplicates(["", " ", "\n"]) == []
    assert overlap(["", " "], ["", "a"]) == NOTHING


def test_no_texts_have_no_duplicates() -> None:
    assert exact_duplicates([]) == near_duplicates([]) == []
    assert overlap([], []) == overlap([], ["a b c"]) == overlap(["a b c"], []) == NOTHING


def test_one_changed_word_of_forty_is_a_near_duplicate() -> None:
    texts = [sentence(0), sentence(1), changed(sentence(0), 20)]
    assert near_duplicates(texts) == [(0, 2)]  # 35 common runs of 41


def test_the_threshold_is_the_exact_jaccard_similarity() -> None:
    # 40 words have 38 runs of 3; a changed word in the middle costs 3 of them: (38 - 3) / (38 + 3).
    pair = [sentence(0), changed(sentence(0), 20)]
    assert near_duplicates(pair, threshold=35 / 41) == [(0, 1)]
    assert near_duplicates(pair, threshold=35 / 41 + 1e-9) == []


def test_exact_copies_alone_are_no_near_duplicates_but_join_a_group() -> None:
    original, similar = sentence(0), changed(sentence(0), 20)
    assert near_duplicates([original, original.upper()]) == []
    assert near_duplicates([original, sentence(1), original.upper(), similar]) == [(0, 2, 3)]


def test_near_duplicates_are_linked_in_chains() -> None:
    first = sentence(0)
    second, third = changed(first, 10), changed(first, 10, 30)
    assert near_duplicates([third, first, second]) == [(0, 1, 2)]
    assert near_duplicates([third, first]) == []


def test_same_words_in_another_order_are_no_duplicate() -> None:
    words = sentence(0).split()
    assert near_duplicates([" ".join(words), " ".join(reversed(words))]) == []


def test_repeating_itself_does_not_make_a_text_similar_to_another() -> None:
    assert near_duplicates(["ha " * 500, "ha " * 500 + sentence(0)]) == []


def test_punctuation_alone_makes_a_near_duplicate_of_short_texts() -> None:
    assert near_duplicates(["Yes.", "yes!", "No.", "Yes, sir", "?!", "..."]) == [(0, 1)]


def test_chinese_is_compared_by_characters() -> None:
    text = "今天天气很好我们一起去公园散步然后回家吃饭晚上看一场新的电影明天早上还要去学校上课"
    assert near_duplicates([text, text.replace("电影", "电视"), "我喜欢吃苹果也喜欢喝茶"]) == [(0, 1)]


def test_every_pair_that_all_pairs_would_find_is_found() -> None:
    generator = random.Random(0)
    texts = [sentence(seed, 30 + seed % 50) for seed in range(60)]
    for _ in range(240):
        text = generator.choice(texts)
        texts.append(changed(text, *generator.sample(range(len(text.split())), generator.randint(1, 3))))
    runs = [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (text.split() for text in texts)]
    graph = np.zeros((len(texts), len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        graph[one, other] = len(runs[one] & runs[other]) >= 0.8 * len(runs[one] | runs[other])
    labels = connected_components(graph, directed=False)[1]
    groups = [tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]
    distinct = [group for group in groups if len({texts[index] for index in group}) > 1]
    assert near_duplicates(texts) == sorted(distinct)


def test_similar_rows_are_found_behind_a_long_instruction_that_all_rows_share() -> None:
    shared = sentence(0, 60)
    texts = [f"{shared} {sentence(seed, 50)}" for seed in range(1, 400)]
    texts.append(changed(texts[7], 80))
    assert near_duplicates(texts) == [(7, len(texts) - 1)]


def test_the_result_does_not_depend_on_the_process() -> None:
    code = "from tests.test_leakage import *; print(near_duplicates([changed(sentence(s // 4), s % 40) for s in range(80)], seed=3))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
        ).stdout  # fmt: skip
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_copied_row_is_an_exact_overlap() -> None:
    train = [sentence(seed) for seed in range(20)]
    found = overlap([sentence(99), train[3].upper()], train)
    assert found == Overlap(exact=(1,), ngram13=(1,), near=())


def test_a_slightly_changed_row_is_a_near_overlap() -> None:
    train = [sentence(seed) for seed in range(20)]
    # Words 0-11, 13-26 and 28-39 are left: one run of 14.
    assert overlap([changed(train[3], 12, 27)], train, threshold=0.7) == Overlap((), (0,), (0,))
    assert overlap([changed(train[3], 12, 27)], train).near == ()  # 32 common runs of 44


@pytest.mark.parametrize(("num_words", "found"), [(13, (0,)), (12, ())])
def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(num_words: int, found: tuple[int, ...]) -> None:
    common = " ".join(sentence(0).split()[:num_words])
    train = [f"{sentence(1)} {common} {sentence(2)}", sentence(3)]
    assert overlap([f"{sentence(4)} {common} {sentence(5)}"], train) == Overlap((), found, ())


def test_punctuation_and_case_do_not_hide_thirteen_words() -> None:
    common = "The quick brown fox jumps over the lazy dog and then runs far away"
    hidden = "THE quick, brown fox -- jumps over the lazy dog; and then 'runs' far away!"
    assert overlap([f"{sentence(1)} {hidden}"], [f"{common} {sentence(2)}"]).ngram13 == (0,)


def test_a_text_shorter_than_thirteen_words_has_no_ngram_overlap() -> None:
    assert overlap(["What is the capital of France?"], ["what is the capital of france"]) == Overlap((), (), (0,))


def test_a_run_of_words_does_not_reach_into_the_next_text() -> None:
    words = sentence(0, 16).split()
    assert overlap([" ".join(words)], [" ".join(words[:8]), " ".join(words[8:])]) == NOTHING


def test_a_prompt_that_many_training_rows_share_is_no_leak() -> None:
    shared = sentence(0, 100)
    train = [f"{shared} {sentence(seed, 10)}" for seed in range(1, 31)]
    assert overlap([f"{shared} {sentence(99, 10)}"], train) == NOTHING


def test_a_leak_behind_a_shared_prompt_is_found() -> None:
    shared = sentence(0, 100)
    train = [f"{shared} {sentence(seed, 20)}" for seed in range(1, 31)]
    asked = [f"{shared} {changed(sentence(5, 20), 19)}", f"{shared} {sentence(99, 20)}"]
    assert overlap(asked, train) == Overlap((), (0,), (0,))


def test_the_end_of_a_shared_prompt_with_a_common_next_word_is_no_leak() -> None:
    shared = sentence(0, 100)
    train = [f"{shared} {'the' if seed == 1 else f'a{seed}'} {sentence(seed, 20)}" for seed in range(1, 31)]
    assert overlap([f"{shared} the {sentence(99, 20)}"], train) == NOTHING


@pytest.mark.parametrize(("num_rows", "found"), [(10, (0,)), (11, ())])
def test_words_are_boilerplate_from_the_eleventh_training_row_on(num_rows: int, found: tuple[int, ...]) -> None:
    shared = sentence(0, 13)
    train = [f"{shared} {sentence(seed)}" for seed in range(1, num_rows + 1)]
    assert overlap([f"{shared} {sentence(99)}"], train).ngram13 == found


def test_boilerplate_grows_with_the_training_rows() -> None:
    shared = sentence(0, 13)
    train = [f"{shared} {sentence(seed)}" if seed <= 15 else sentence(seed) for seed in range(1, 1601)]
    assert overlap([f"{shared} {sentence(9999)}"], train).ngram13 == (0,)  # in 15 rows; 1 % is 16


def test_a_row_that_is_repeated_often_in_training_is_no_boilerplate() -> None:
    asked = sentence(0)
    assert overlap([f"{asked} indeed"], [asked] * 50 + [sentence(1)]) == Overlap((), (0,), (0,))


def test_words_that_one_training_row_repeats_are_no_boilerplate() -> None:
    chorus = sentence(0, 13)
    assert overlap([chorus], [" ".join([chorus] * 30), sentence(1)]).ngram13 == (0,)
