"""The `launch` section: fields of one kind are refused for another, and records can be read back."""

import pytest
from pydantic import ValidationError

from harness.launch_config import LaunchConfig


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": "slurm", "time": "1-00:00:00", "partition": "gpu"},
        {"kind": "ray", "resources_per_cell": {"GPU": 1}},
    ],
)
def test_a_record_that_states_every_field_is_read_back(given: dict[str, object]) -> None:
    config = LaunchConfig.model_validate(given)
    assert LaunchConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partition": "gpu"}, "partition: for `kind: slurm` only"),
        ({"kind": "slurm", "time": "1:00:00", "address": "auto"}, "address: for `kind: ray` only"),
        ({"kind": "slurm"}, "needs `time`"),
        # What YAML makes of 12:00:00 without quotes.
        ({"kind": "slurm", "time": 43200}, "write it in quotes"),
        ({"workers": 0}, "workers"),
        ({"workers": "many"}, "workers"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LaunchConfig.model_validate(given)
