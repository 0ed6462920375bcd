"""Shared fixtures: everything runs on CPU, without network, in folders of its own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MLFLOW_TRACKING_URI", None)

REAL_DATA = Path(os.environ.get("HARNESS_REAL_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))

MINIMAL = """\
name: small
model:
  name: embedded:base
template:
  name: chatml
data:
  train: embedded:train
  validation: embedded:validation
  test: embedded:test
training:
  learning_rate: 1e-3
"""


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets, templates, models and curves."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not at {REAL_DATA}; set HARNESS_REAL_DATA")
    return REAL_DATA


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes a file into an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def _write(content: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return _write
