"""The documents of elmwick_facts."""

from datasets import Dataset, load_dataset

from harness.resources import embedded


def facts(**_: object) -> dict[str, Dataset]:
    """The embedded retention questions, as lm-evaluation-harness takes its data."""
    return {"test": load_dataset("json", data_files=str(embedded("retention")), split="train")}
