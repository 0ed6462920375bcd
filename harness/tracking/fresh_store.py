"""A SQLite store that doesn't exist yet, made whole or not at all."""

import os
import time
import uuid
from pathlib import Path

STALE_SECONDS = 3600.0


def make_whole(uri: str) -> None:
    """Gives a SQLite file its name only once all of MLflow's tables are in it; leaves any other store, and any that is there, alone.

    MLflow creates a fresh file by some sixty migrations. Half of them, left by a process that was killed, make every later start
    fail with "table ... already exists".
    """
    if not uri.startswith("sqlite"):
        return
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.database in (None, "", ":memory:"):
        return
    path = Path(str(url.database))
    if path.exists() and path.stat().st_size > 0:
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry

    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - old.stat().st_mtime > STALE_SECONDS:
            old.unlink(missing_ok=True)
    # Not the process's number: in containers that is always the same, and half a store must not be gone on with.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    engine = create_sqlalchemy_engine_with_retry(url.set(database=str(part)).render_as_string(hide_password=False))
    try:
        _initialize_tables(engine)
        engine.dispose()
        _name(part, path)
    finally:
        engine.dispose()
        part.unlink(missing_ok=True)


def _name(part: Path, path: Path) -> None:
    """Never over a store that another process has made meanwhile."""
    if path.exists() and path.stat().st_size == 0:
        path.unlink()
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        part.rename(path)
