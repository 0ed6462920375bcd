"""Hides passwords and tokens in whatever is kept or shown."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO, cast

HIDDEN = "***"
SHORTEST_VALUE = 8
"""Of a variable in the environment: a shorter one, such as `true`, is a word of any text."""
_NAME = (
    r"(?:[\w-]*(?:api[_-]?key|password|passwd|secret|secret[_-]?key|secret[_-]?access[_-]?key|private[_-]?key)"
    r"|[\w-]*(?:hub|access|auth|hf|bearer|refresh|session|tracking|databricks|github)[_-]token|pwd|sig|x-amz-signature)"
)
SECRET_NAME = re.compile(rf"(?i){_NAME}|[\w-]*[_-]token")
# `eos_token` and its like are part of a model; whoever must hide a name of one's own gives it one of the endings above.
MODEL_TOKENS = re.compile(r"(?i)(?:.*_)?(?:eos|bos|pad|unk|sep|cls|mask|image|audio|video|end|start|special)_token")
# What can't be in an address ends one, so a text is looked at piece by piece, and every piece once: time grows with its length.
PIECE = re.compile(r"[^\s'\"<>]+")
# The address of a database may hold any character in its password, `/` and `:` too; a port and a path are none.
USER_AT_HOST = re.compile(r"(?<=://)(?:[^/?#]*@|[^/:@]*+:(?!\d{1,5}(?:/|$))[^@]*+@(?:[^/?#]*@)?)(?=[^@])")
TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|dapi[0-9a-f]{32}|xox[abprs]-[\w-]{10,})"
    # A JSON Web Token, with the word that it stands in: to begin at every `eyJ` of a long word would take the square of its length.
    r"|(?<![\w-])(?=[\w-]*eyJ)[\w-]{13,}+\.eyJ[\w-]{10,}+\.[\w-]+"
)
HEADER = re.compile(
    r"(?i)(\bauthorization\b['\"]?\s*[:=,]\s*(?:b(?=['\"]))?['\"]?)(?:(?:bearer|basic|token|digest)\s+)?[^\s'\",}]+"
)
BEARER = re.compile(r"(?i)(\bbearer\s+)(?=[\w.~+/-]*\d)[\w.~+/-]{12,}=*")
ASSIGNED = re.compile(rf"(?i)((?<![\w-]){_NAME}['\"]?\s*[=:]\s*)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s'\",;&}})\]]+)")


def redacted(text: str) -> str:
    """The text without passwords and tokens: in addresses, headers, settings, of known forms, or in the environment."""
    for value in _values_of_environment():
        text = text.replace(value, HIDDEN)
    text = without_password(text)
    text = HEADER.sub(rf"\1{HIDDEN}", text)
    text = BEARER.sub(rf"\1{HIDDEN}", text)
    text = ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return TOKENS.sub(HIDDEN, text)


def without_password(text: str) -> str:
    """An address, or a text with addresses, with user and password left out."""
    return PIECE.sub(_address_without_password, text) if "://" in text and "@" in text else text


def _address_without_password(piece: re.Match[str]) -> str:
    """A piece without user and password; no `@` at its end parts anything, and nothing after the last of the others is a password."""
    whole = piece[0]
    core = whole.rstrip("@")
    end = core.rfind("@") + 2
    return USER_AT_HOST.sub(f"{HIDDEN}@", whole[:end]) + whole[end:] if "://" in core and end > 1 else whole


def holds_secret(text: str) -> bool:
    """Whether a text holds a token of a known form, or an address with a user or a password."""
    return bool(TOKENS.search(text)) or without_password(text) != text


def is_secret_name(name: str) -> bool:
    """Whether a setting of that name is a password or a token, whatever its value looks like."""
    last = name.rpartition(".")[2]
    return bool(SECRET_NAME.fullmatch(last)) and not MODEL_TOKENS.fullmatch(last)


def redacted_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings by name, fit to be shown."""
    return {
        name: HIDDEN if value not in ("", "None") and is_secret_name(name) else redacted(value)
        for name, value in settings.items()
    }


def redacted_tree(value: Any) -> Any:
    """Plain data with every text in it redacted."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if isinstance(item, str) and item and is_secret_name(str(key)) else redacted_tree(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redacted_tree(item) for item in value]
    return redacted(value) if isinstance(value, str) else value


def _values_of_environment() -> Iterator[str]:
    """Values of the variables that hold secrets, such as `HF_TOKEN` and `MLFLOW_TRACKING_PASSWORD`, the longest first."""
    # PWD is the working folder in every shell: to hide it would hide all paths below it.
    named = [
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_VALUE and is_secret_name(name) and name != "PWD"
    ]
    yield from sorted(named, key=len, reverse=True)


class RedactingFormatter(logging.Formatter):
    """Formats a message and its traceback without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One message."""
        return redacted(super().format(record))


class _RedactingStream:
    """A stream that hides secrets in whatever is written to it at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Hides secrets in all that Python code of this process writes from now on, libraries and tracebacks too."""
    sys.stdout, sys.stderr = (cast(TextIO, _RedactingStream(stream)) for stream in (sys.stdout, sys.stderr))


def redacting_excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback without secrets."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
