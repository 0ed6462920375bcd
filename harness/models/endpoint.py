"""The way to an OpenAI-compatible server, and what can go wrong on it."""

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from harness.config import api_key
from harness.errors import ModelError
from harness.eval_config import ReferenceConfig
from harness.models.wire import Request

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

NO_KEY = "EMPTY"
REASON_LENGTH, MAX_LISTED = 300, 10
# As OpenAI, vLLM, SGLang, llama.cpp, text-generation-inference and gateways before them say it.
TOO_LONG = re.compile(
    r"context[ _]?(length|window|size|limit)|maximum (model|sequence) length|max_model_len|prompt is too long"
    r"|max_tokens must be at least 1, got -|`max_new_tokens` must be <=",
    re.IGNORECASE,
)
NO_PREFILL = re.compile(r"continue_final_message|add_generation_prompt|prefill", re.IGNORECASE)
TAG = re.compile(r"<[^>]*>")


class Endpoint:
    """A server's address and its key, which no message shows."""

    def __init__(self, config: ReferenceConfig) -> None:
        self._config = config
        parts = _split(config)
        self.url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._key = api_key(config)
        if self._key and not self._key.isascii():
            raise ModelError(f"{config.api_key_env} has letters in it that no key has; copy the key again")

    def client(self) -> "AsyncOpenAI":
        """A client for one event loop; it tries again by itself, with growing pauses or after the server's own."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or NO_KEY,
            timeout=self._config.timeout_seconds,
            max_retries=self._config.max_retries,
        )

    def problem(self, error: Exception, request: Request, models: Sequence[str] = ()) -> str:
        """The sentence for what went wrong with a request.

        Args:
            error: what the client raised.
            request: which one.
            models: what the server serves; empty where it doesn't say.
        """
        import openai

        where = f"reference {self._config.name}: the server at {self.url}"
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{where} didn't answer example {request.example_id} within {self._config.timeout_seconds:g} seconds "
                f"(max_retries {self._config.max_retries}); raise timeout_seconds, or lower concurrency or max_new_tokens"
            )
        if isinstance(error, openai.APIConnectionError):
            cause = self._shown(str(error.__cause__ or error))
            return f"{where} can't be reached ({cause}); start it, or correct url"
        if isinstance(error, openai.APIStatusError):
            return f"{where} {self._refusal(error, request, models)}"
        return f"{where} sent what is no answer ({self._shown(str(error))}); check url, which usually ends in /v1"

    def _refusal(self, error: "APIStatusError", request: Request, models: Sequence[str]) -> str:
        config = self._config
        said = f"({error.status_code}: {self.reason(error)})"
        asked = f"example {request.example_id}"
        if error.status_code in (401, 403):
            if self._key:
                return f"refuses the key in {config.api_key_env} {said}; check it, and what it may be used for"
            return f"wants a key {said}; put it into the environment variable {config.api_key_env}"
        if error.status_code in (404, 405, 501):
            return self._missing(said, request, models)
        if error.status_code == 429:
            return (
                f"turned {asked} away too often {said}; lower concurrency, or raise max_retries ({config.max_retries})"
            )
        if error.status_code >= 500:
            return f"failed on {asked} {said} (max_retries {config.max_retries}); look into the server's own log"
        return f"refuses {asked} {said}; correct what it names"

    def _missing(self, said: str, request: Request, models: Sequence[str]) -> str:
        model = str(self._config.model)
        if not models:
            return f"doesn't know {request.path} or the model {model!r} {said}; correct url, which usually ends in /v1, or model"
        if model in models:
            return f"has no {request.path} {said}; ask a server that has it, or leave out the suites that need it"
        near = difflib.get_close_matches(model, models, n=1)
        listed = ", ".join(models[:MAX_LISTED]) + (", ..." if len(models) > MAX_LISTED else "")
        return f"has no model {model!r}; it has {listed}; set model{f' to {near[0]}' if near else ''}"

    def reason(self, error: "APIStatusError") -> str:
        """What the server says about its refusal, in one line."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body.get("error") or body
        return self._shown(TAG.sub(" ", str(body or "no reason given")))

    def _shown(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "***")
        line = " ".join(text.split())
        return line if len(line) <= REASON_LENGTH else line[:REASON_LENGTH] + "..."


def _split(config: ReferenceConfig) -> SplitResult:
    """The parts of an address.

    Raises: ModelError: it is none, or has a query, which would show in logs.
    """
    example = "write it as http://localhost:8000/v1"
    try:
        parts = urlsplit(config.url or "")
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ModelError(f"reference {config.name}: url is no address of a server; {example}")
    if parts.query or parts.fragment:
        raise ModelError(
            f"reference {config.name}: url has more than an address; {example}, and put a key into the environment variable {config.api_key_env}"
        )
    return parts


def is_too_long(reason: str, error: "APIStatusError") -> bool:
    """Whether a prompt is refused because it and its answer don't fit the model's context."""
    if error.status_code in (401, 403, 404, 429):
        return False
    return TOO_LONG.search(f"{error.code} {error.type} {reason}") is not None


def cannot_continue(reason: str, request: Request, error: "APIStatusError") -> bool:
    """Whether a server refuses to go on with an answer that the prompt begins."""
    return request.continues and error.status_code in (400, 422) and NO_PREFILL.search(reason) is not None
