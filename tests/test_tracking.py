"""MLflow: what goes wrong there must not end a training, and passwords must not show."""

import logging

import pytest

from harness.tracking import connection
from harness.tracking.connection import deliver, without_password


def test_a_call_that_fails_once_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.0, 0.0))
    calls = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("UNIQUE constraint failed")

    deliver("datasets", call)
    assert len(calls) == 2


def test_a_call_that_always_fails_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.0,))
    with caplog.at_level(logging.WARNING):
        deliver("datasets", lambda: 1 / 0)
    assert "the datasets could not be sent to MLflow: division by zero" in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db.example/mlflow", "postgresql://***@db.example/mlflow"),
        ("https://user:p%40ss@host:5000/x", "https://***@host:5000/x"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_are_left_out(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
