"""A process that is killed while it creates the MLflow store leaves nothing that the next one stumbles over."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
import mlflow.store.db.utils as mlflow_database
import pytest

from harness.tracking.fresh_store import make_whole


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    before = mlflow.get_tracking_uri()
    yield tmp_path / "deep" / "mlflow.db"
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def half_of_it(engine: object) -> None:
    raise KeyboardInterrupt


def test_half_of_a_store_is_none(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_database, "_upgrade_db", half_of_it)
        with pytest.raises(KeyboardInterrupt):
            make_whole(f"sqlite:///{database}")
    assert list(database.parent.iterdir()) == []
    make_whole(f"sqlite:///{database}")
    assert mlflow.MlflowClient(f"sqlite:///{database}").create_experiment("x") == "1"
    assert [path.name for path in database.parent.glob("*.part")] == []


def test_a_store_that_is_there_stays_as_it_is(database: Path) -> None:
    make_whole(f"sqlite:///{database}")
    mlflow.MlflowClient(f"sqlite:///{database}").create_experiment("x")
    before = database.read_bytes()
    make_whole(f"sqlite:///{database}")
    assert database.read_bytes() == before


def test_an_empty_file_is_no_store_yet(database: Path) -> None:
    database.parent.mkdir()
    database.touch()
    make_whole(f"sqlite:///{database}")
    with sqlite3.connect(database) as store:
        assert store.execute("select count(*) from alembic_version").fetchone() == (1,)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "postgresql://someone@127.0.0.1:1/x", "sqlite://"])
def test_other_stores_are_none_of_its_business(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_whole(uri)
    assert list(tmp_path.iterdir()) == []
