"""`harness ui` where there is nothing to show."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main


def test_a_folder_without_runs_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = CliRunner().invoke(main, ["ui", "quickstart"])
    assert done.exit_code == 2
    assert "knows no experiment 'quickstart'" in done.stderr
    assert not list(tmp_path.iterdir())
