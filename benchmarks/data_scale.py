"""Times the data checks on 100,000 synthetic rows: `OMP_NUM_THREADS=1 python benchmarks/data_scale.py [rows]`.

3 % of the rows are copies and 3 % are copies with one changed word; the rest is 100-140 words drawn by Zipf's law from
50,000. Peak memory is that of the process so far, in GiB, so only its growth belongs to the check of that line.
"""

import itertools
import random
import resource
import sys
import time
from collections.abc import Callable

from harness.data.leakage import exact_duplicates, near_duplicates, overlap
from harness.data.quality import foreign_template_tokens, looks_truncated, row_scores, unfilled_placeholders

NUM_HELD_OUT = 2000


def make_texts(num_texts: int, seed: int = 0) -> list[str]:
    """Texts with known shares of exact and near duplicates."""
    generator = random.Random(seed)
    vocabulary = [
        "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 10))) for _ in range(50_000)
    ]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    texts: list[str] = []
    for _ in range(num_texts):
        kind = generator.random() if texts else 1.0
        if kind < 0.06:
            words = generator.choice(texts).split()
            if kind < 0.03:
                words[generator.randrange(len(words))] = "changed"
        else:
            words = generator.choices(vocabulary, cum_weights=weights, k=generator.randint(100, 140))
        texts.append(" ".join(words))
    return texts


def check_rows(texts: list[str]) -> int:
    """Every row-level check, the first 100 characters standing in for the instruction; gives how many rows it flags."""
    flagged = 0
    for text in texts:
        row_scores(text[:100], text)
        flagged += bool(unfilled_placeholders(text) or foreign_template_tokens(text) or looks_truncated(text))
    return flagged


def main() -> None:
    """Prints seconds, findings and peak memory of each check."""
    texts = make_texts(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    checks: dict[str, Callable[[], int]] = {
        "(nothing)": lambda: 0,
        "exact_duplicates": lambda: len(exact_duplicates(texts)),
        "near_duplicates": lambda: len(near_duplicates(texts)),
        "overlap": lambda: sum(map(len, overlap(texts[-NUM_HELD_OUT:], texts[:-NUM_HELD_OUT]))),
        "row checks": lambda: check_rows(texts),
    }
    print(f"{len(texts):,} rows\n{'check':<18}{'seconds':>9}{'found':>9}{'peak GiB':>10}")
    for name, check in checks.items():
        started = time.perf_counter()
        found = check()
        seconds = time.perf_counter() - started
        print(
            f"{name:<18}{seconds:>9.1f}{found:>9,}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:>10.2f}"
        )


if __name__ == "__main__":
    main()
