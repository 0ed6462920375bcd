"""What comes with the package, and digests of what may change."""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

BAD_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What reading a damaged or hostile zip archive raises."""

EMBEDDED_PREFIX = "embedded:"
DIGEST_LENGTH = 12


def bundled(kind: str) -> Path:
    """The folder `experiments`, `evals` or `templates` that came with the package.

    A wheel carries the first two inside the package; a checkout has them beside it.
    """
    package = Path(__file__).parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def embedded(name: str) -> Path:
    """The embedded base (`base`) or one split of the embedded data (`train`, `validation`, `test`, `retention`, `structured_train`...)."""
    folder = Path(__file__).parent / "embedded" / "files"
    return folder / "base" if name == "base" else folder / f"{name}.jsonl"


def is_file(path: Path) -> bool:
    """Whether there is such a file; False too where the name is one that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; False too where the name is one that none can have."""
    try:
        return path.exists()
    except OSError:
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as hex digits.

    Raises: OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """12 hex digits of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
