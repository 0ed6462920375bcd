"""What went into a run, as MLflow datasets."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.records import SplitSummary, SuiteResult

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

MAX_DIGEST = 36
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CHAT_COLUMNS = ({"name": "messages", "type": "array", "items": {"type": "object"}, "required": True},)
"""Rows of any format become conversations."""


class DatasetLink(NamedTuple):
    """Names a dataset to MLflow, so that a metric can be linked to it."""

    name: str
    digest: str


def split_link(split: SplitSummary) -> DatasetLink:
    """The dataset of a split."""
    return DatasetLink(Path(split.source).stem or split.source, split.digest[:MAX_DIGEST])


def suite_link(suite: SuiteResult) -> DatasetLink:
    """The dataset of the examples that a suite asked."""
    return DatasetLink(suite.suite, suite.digest[:MAX_DIGEST])


def split_inputs(splits: Mapping[str, SplitSummary]) -> "list[DatasetInput]":
    """The splits, each with its context: train, validation."""
    return [
        _input(
            name,
            split_link(split),
            split.source,
            CHAT_COLUMNS,
            {
                "num_rows": split.rows_used, "num_elements": split.tokens, "rows_read": split.rows_read,
                "supervised_tokens": split.supervised_tokens, "truncated": split.truncated,
                "dropped": sum(split.dropped.values()), **split.dropped,
            },
        )
        for name, split in splits.items()
    ]  # fmt: skip


def suite_input(suite: SuiteResult) -> "DatasetInput":
    """The examples of a suite, with the context test."""
    columns = [{"name": name, "type": "double", "required": False} for name in suite.metrics]
    slices = sorted({name for names in suite.slices.values() for name in names})
    profile = {"num_rows": len(suite.clusters), "clusters": len(set(suite.clusters.values())), "slices": slices}
    source = f"evals/{suite.kind or suite.suite}.py, version {suite.version}"
    return _input("test", suite_link(suite), source, columns, profile)


def _input(
    context: str,
    link: DatasetLink,
    source: str,
    columns: Sequence[Mapping[str, object]],
    profile: Mapping[str, object],
) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    is_on_the_hub = HUB_ID.fullmatch(source) is not None and not Path(source).exists()
    # The UI opens what lies on the Hub, and shows the path of anything else.
    kind, content = ("hugging_face", {"path": source}) if is_on_the_hub else ("local", {"uri": source})
    dataset = Dataset(
        name=link.name, digest=link.digest, source_type=kind, source=json.dumps(content),
        schema=json.dumps({"mlflow_colspec": list(columns)}), profile=json.dumps(profile),
    )  # fmt: skip
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
