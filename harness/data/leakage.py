"""Duplicated texts inside a dataset, and held-out texts that training has seen.

Texts are compared as sets of hashed word n-grams in numpy. For 100,000 texts that is as fast as rensa (Rust) and five
times as fast as datasketch, both of which want every n-gram as a Python string first; see benchmarks/data_scale.py.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THRESHOLD = 0.8
"""Jaccard similarity from which texts are near duplicates, as in Lee et al. 2022 (arXiv:2107.06499)."""
SHINGLE = 3
"""Words. One changed word costs 3 of them: a row of 30 words stays a near duplicate. With the 5 words that are usual
for web pages it would not, and rows of instruction data are short. One size for all, or short and long can't match."""
NGRAM = 13
"""Words, as in GPT-3 (arXiv:2005.14165, appendix C) and lm-eval's decontamination."""
NUM_PERMUTATIONS = 128
BAND_RECALL = 0.99
WINDOW = 8
BLOCK = 1000

WORD = re.compile(r"\w+")
# Chinese and Japanese have no blanks between words: there a character counts as a word.
WORD_OR_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C13)

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


class Overlap(NamedTuple):
    """Indices of the held-out texts that occur in training, by how."""

    exact: tuple[int, ...]
    """Same text but for case and blanks."""
    ngram13: tuple[int, ...]
    """Share 13 words in a row with a training text; copies of 13 words or more are among them."""
    near: tuple[int, ...]
    """Near duplicates of a training text; those in `exact` are left out."""


class _Grams(NamedTuple):
    """N-grams of all texts, text after text."""

    hashes: Hashes  # (num_grams,)
    owners: Indices  # (num_grams,), index of the text, ascending


class _Signatures(NamedTuple):
    """MinHash signatures of the texts that have any n-gram."""

    values: NDArray[np.uint32]  # (num_signed, NUM_PERMUTATIONS)
    owners: Indices  # (num_signed,)
    bounds: Indices  # (num_signed + 1,), where the n-grams of each text start, with the end as the last


def exact_duplicates(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Groups of texts that are equal but for case and blanks, as indices; empty texts are not compared."""
    return [tuple(group) for group in _copies(texts).values() if len(group) > 1]


def near_duplicates(texts: Sequence[str], *, threshold: float = THRESHOLD, seed: int = 0) -> list[tuple[int, ...]]:
    """Groups of texts that are linked by pairs with a Jaccard similarity of at least `threshold`, as indices.

    Compared are sets of 3 words in a row. Copies of one text belong to its group, but make no group alone. MinHash
    proposes the pairs and the exact similarity decides: no pair is made up; about 1 in 100 of those at the threshold is
    missed, and more where most texts share most of their words.
    """
    copies = _copies(texts)
    groups: dict[int, list[int]] = defaultdict(list)
    labels = _components(_grams(*_words(list(copies), seed), SHINGLE), len(copies), threshold, seed)
    num_distinct = np.bincount(labels, minlength=1)
    for label, members in zip(labels.tolist(), copies.values(), strict=True):
        if num_distinct[label] > 1:
            groups[label].extend(members)
    return sorted(tuple(sorted(group)) for group in groups.values())


def overlap(held_out: Sequence[str], train: Sequence[str], *, threshold: float = THRESHOLD, seed: int = 0) -> Overlap:
    """Which held-out texts occur in training; give prompts, answers or both, whichever must not be shared.

    N-grams in more than 1 % of the distinct training texts (and in more than 10) are boilerplate, such as a system
    prompt or the instruction that all rows share, and count for nothing: else every row would be a leak. The 13 words
    must lie outside of boilerplate altogether, or its end with the one word that follows it would count.
    """
    trained = list(_copies(train))
    asked = [_normalized(text) for text in held_out]
    known = set(trained)
    exact = tuple(index for index, text in enumerate(asked) if text in known)
    hashes, starts = _words([*trained, *asked], seed)
    limit = max(10, len(trained) // 100)

    grams = _grams(hashes, starts, NGRAM)
    seen, boilerplate = _seen_and_boilerplate(grams, len(trained), limit)
    first = int(np.searchsorted(grams.owners, len(trained)))
    asked_grams = _Grams(grams.hashes[first:], grams.owners[first:] - len(trained))
    leaked = _is_in(asked_grams.hashes, seen) & ~_touches(_is_in(asked_grams.hashes, boilerplate), asked_grams.owners)
    ngram13 = np.unique(asked_grams.owners[leaked])
    del grams, seen  # as large as the training texts

    grams = _grams(hashes, starts, SHINGLE)
    _, boilerplate = _seen_and_boilerplate(grams, len(trained), limit)
    kept = ~_is_in(grams.hashes, boilerplate)
    grams = _Grams(grams.hashes[kept], grams.owners[kept])
    near = _near_training(grams, len(trained), threshold, seed) - set(exact)
    return Overlap(exact, tuple(ngram13.tolist()), tuple(sorted(near)))


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())


def _copies(texts: Sequence[str]) -> dict[str, list[int]]:
    """Normalized text -> indices of its copies, in order of first occurrence, without empty texts."""
    copies: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if key := _normalized(text):
            copies.setdefault(key, []).append(index)
    return copies


def _words(texts: Sequence[str], seed: int) -> tuple[Hashes, Indices]:
    """A random number for every word, text after text, and where each text starts, with the end as the last start.

    Python's own hash of a string differs from process to process, so the numbers are drawn in order of appearance.
    """
    vocabulary: dict[str, int] = defaultdict(count().__next__)
    numbers = np.empty(0, dtype=np.int32)
    blocks, lengths = [numbers], []
    for start in range(0, len(texts), BLOCK):
        block: list[int] = []
        for text in texts[start : start + BLOCK]:
            words = (WORD if text.isascii() else WORD_OR_IDEOGRAPH).findall(text)
            if 0 < len(words) < SHINGLE:
                words += [""] * (SHINGLE - len(words))  # so that a text of one or two words has a shingle, too
            block.extend(map(vocabulary.__getitem__, words))
            lengths.append(len(words))
        blocks.append(np.array(block, dtype=np.int32))
    random = np.random.default_rng(seed).integers(0, 2**64, max(len(vocabulary), 1), dtype=np.uint64)
    return random[np.concatenate(blocks)], np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _grams(words: Hashes, starts: Indices, size: int) -> _Grams:
    """All runs of `size` words inside one text, as polynomial hashes modulo 2**64."""
    num_runs = max(len(words) - size + 1, 0)
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))  # (num_words,)
    hashes = words[:num_runs].copy()
    for offset in range(1, size):
        hashes *= MULTIPLIER
        hashes += words[offset : offset + num_runs]
    inside = owners[:num_runs] == owners[len(owners) - num_runs :]
    return _Grams(hashes[inside], owners[:num_runs][inside])


def _is_in(values: Hashes, table: Hashes) -> NDArray[np.bool_]:
    """Which values are in a sorted table; without the copies that np.isin makes."""
    if not len(table):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.equal(table[places], values)


def _seen_and_boilerplate(grams: _Grams, num_trained: int, limit: int) -> tuple[Hashes, Hashes]:
    """The n-grams of the first `num_trained` texts, and those of them that are in more than `limit` of these texts."""
    num_grams = int(np.searchsorted(grams.owners, num_trained))
    hashes, owners = grams.hashes[:num_grams], grams.owners[:num_grams]
    seen, counts = np.unique(hashes, return_counts=True)
    # A run that one text repeats isn't shared by many, so what is frequent is counted again by text.
    frequent = seen[counts > limit]
    found = _is_in(hashes, frequent)
    pairs = np.unique(np.searchsorted(frequent, hashes[found]) * num_trained + owners[found])
    return seen, frequent[np.bincount(pairs // max(num_trained, 1), minlength=len(frequent)) > limit]


def _touches(flags: NDArray[np.bool_], owners: Indices) -> NDArray[np.bool_]:
    """Which of the n-grams of 13 words share a word of their text with a flagged one."""
    touched = flags.copy()
    for offset in range(1, NGRAM):
        same = owners[offset:] == owners[:-offset]
        touched[offset:] |= flags[:-offset] & same
        touched[:-offset] |= flags[offset:] & same
    return touched


def _signatures(grams: _Grams, seed: int) -> _Signatures:
    """MinHash (Broder 1997): the share of equal values of two signatures estimates the Jaccard similarity."""
    multipliers = np.random.default_rng(seed).integers(0, 2**64, NUM_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    owners, starts = np.unique(grams.owners, return_index=True)
    bounds = np.append(starts, len(grams.hashes))
    values = np.empty((len(owners), NUM_PERMUTATIONS), dtype=np.uint32)
    for first in range(0, len(owners), BLOCK):
        block = bounds[first : first + BLOCK + 1]
        hashes = grams.hashes[block[0] : block[-1]]
        for index, multiplier in enumerate(multipliers):
            lowest = np.minimum.reduceat(hashes * multiplier, block[:-1] - block[0])
            values[first : first + BLOCK, index] = lowest >> np.uint64(32)
    return _Signatures(values, owners, bounds)


def _bands(signatures: _Signatures, threshold: float) -> list[Hashes]:
    """Keys that a pair at the threshold shares in at least one band, with a probability of `BAND_RECALL`."""

    def recall(size: int) -> float:
        return float(1 - (1 - threshold**size) ** (NUM_PERMUTATIONS // size))

    size = max((size for size in range(1, 17) if recall(size) >= BAND_RECALL), default=1)
    columns = signatures.values.astype(np.uint64).T  # (NUM_PERMUTATIONS, num_signed)
    keys = []
    for band in range(NUM_PERMUTATIONS // size):
        key = columns[band * size].copy()
        for column in columns[band * size + 1 : (band + 1) * size]:
            key *= MULTIPLIER
            key += column
        keys.append(key)
    return keys


def _similar(grams: _Grams, signatures: _Signatures, pairs: Indices, threshold: float) -> Indices:
    """Which columns of `pairs`, two rows of `signatures` each, have an exact Jaccard similarity of at least the threshold."""
    left, right = pairs
    margin = 3 * np.sqrt(threshold * (1 - threshold) / NUM_PERMUTATIONS)
    likely = []
    for first in range(0, len(left), 10 * BLOCK):
        part = slice(first, first + 10 * BLOCK)
        agreement = (signatures.values[left[part]] == signatures.values[right[part]]).mean(axis=1)
        likely.append(first + np.flatnonzero(agreement >= threshold - margin))
    similar = []
    for index in np.concatenate(likely).tolist() if likely else []:
        one, other = (
            set(grams.hashes[signatures.bounds[row] : signatures.bounds[row + 1]].tolist())
            for row in (left[index], right[index])
        )
        num_shared = len(one & other)
        if num_shared >= threshold * (len(one) + len(other) - num_shared):
            similar.append(index)
    return np.array(similar, dtype=np.int64)


def _neighbours(keys: Sequence[Hashes]) -> Iterator[Indices]:
    """Pairs that share a band, each text with its next few in the order of that band and the following one.

    A bucket can hold every row of a dataset with a common instruction: its pairs would be far too many, and the window
    (sorted neighbourhood, Hernandez and Stolfo 1995) still links what is most alike.
    """
    for band, key in enumerate(keys):
        order = np.lexsort((keys[(band + 1) % len(keys)], key))
        ordered = key[order]
        for distance in range(1, WINDOW + 1):
            same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
            if not len(same):
                break
            yield np.stack([order[same], order[same + distance]])


def _components(grams: _Grams, num_texts: int, threshold: float, seed: int) -> NDArray[np.int32]:
    """A number for every text, equal for texts that are linked by similar pairs."""
    labels = np.arange(num_texts, dtype=np.int32)
    signatures = _signatures(grams, seed)
    links: list[NDArray[np.int64]] = [np.empty((2, 0), dtype=np.int64)]
    for pairs in _neighbours(_bands(signatures, threshold)):  # (2, num_pairs)
        apart = pairs[:, np.not_equal(*labels[signatures.owners[pairs]])]
        similar = apart[:, _similar(grams, signatures, apart, threshold)]
        if similar.size:
            links.append(signatures.owners[similar])
            rows, columns = np.concatenate(links, axis=1)
            graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(num_texts, num_texts))
            labels = connected_components(graph, directed=False)[1]
    return labels


def _near_training(grams: _Grams, num_trained: int, threshold: float, seed: int) -> set[int]:
    """Which of the texts after the first `num_trained` are similar to one of those, counted from there."""
    signatures = _signatures(grams, seed)
    first_asked = int(np.searchsorted(signatures.owners, num_trained))
    near: set[int] = set()
    for key in _bands(signatures, threshold):
        order = np.argsort(key[:first_asked], kind="stable")
        ordered, wanted = key[:first_asked][order], key[first_asked:]
        lows, highs = np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted, side="right")
        sizes = highs - lows
        asked = np.repeat(np.arange(len(wanted)), sizes)
        within = np.arange(len(asked)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        pairs = np.stack([first_asked + asked, order[np.repeat(lows, sizes) + within]])
        found = pairs[0][_similar(grams, signatures, pairs, threshold)]
        near.update((signatures.owners[found] - num_trained).tolist())
    return near
