"""Batched generation against one prompt at a time: the same greedy text, and how much faster.

Asks the embedded base 200 questions both ways in one process, on one thread: once as they are (answers of about 12 tokens,
so that the prompts take half of the time), once without any end token (96 tokens each):
`python benchmarks/generation.py [--json]`.
"""

import argparse
import dataclasses
import json
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from harness.config import RunConfig
from harness.data.splits import load_splits
from harness.data.tokenize import prompt_ids
from harness.models.generate import generate
from harness.models.load import LoadedModel, load_base
from harness.models.respondent import Sampling

NUM_PROMPTS, NEW_TOKENS = 200, 96


def measured(loaded: LoadedModel, prompts: list[list[int]], sampling: Sampling) -> dict[str, float | int]:
    """Both speeds over the same prompts, and how many texts differ."""
    generate(loaded, prompts[:4], sampling)
    started = time.monotonic()
    alone = [generate(loaded, [prompt], sampling)[0] for prompt in prompts]
    middle = time.monotonic()
    together = generate(loaded, prompts, sampling)
    ended = time.monotonic()
    return {
        "prompts": len(prompts),
        "tokens": sum(len(completion.token_ids) for completion in together),
        "differing_texts": sum(a[:2] != b[:2] for a, b in zip(alone, together, strict=True)),
        "ratio": round((middle - started) / (ended - middle), 1),
    }


def main() -> int:
    """Prints both measurements; fails where any text differs."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = RunConfig.model_validate(
        {"model": {"name": "embedded:base"}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
    )
    loaded = load_base(config, plain_rows=False)
    rows = load_splits(config.data).train[:NUM_PROMPTS]
    prompts = [prompt_ids(loaded.tokenizer, row.example().messages) for row in rows]
    found = {"answers as they end": measured(loaded, prompts, Sampling(NEW_TOKENS))}
    endless = dataclasses.replace(loaded, tokens=dataclasses.replace(loaded.tokens, stop_ids=()))
    endless.model.generation_config.eos_token_id = None
    found[f"{NEW_TOKENS} tokens each"] = measured(endless, prompts, Sampling(NEW_TOKENS))
    if options.json:
        print(json.dumps(found))
    else:
        for name, values in found.items():
            print(f"{name}: batched is {values['ratio']} times as fast ({values})")
    return 1 if any(values["differing_texts"] for values in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
