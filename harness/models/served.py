"""The respondent behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI and others."""

import asyncio
import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from harness.errors import ModelError
from harness.eval_config import ReferenceConfig
from harness.models.endpoint import Endpoint, cannot_continue, is_too_long
from harness.models.respondent import Sampling
from harness.models.wire import Answer, Request, answer_of, generation_of, reply_of, request_for
from harness.records import Example, Generation, Record, StopReason
from harness.resources import digest
from harness.store import append_lines, whole_lines

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

CARD_FIELDS = ("owned_by", "root", "max_model_len")
OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"


class KeptAnswer(Record):
    """One answer of a server, on disk."""

    key: str
    """Of the request."""
    text: str
    stop_reason: StopReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None


class ServedModel:
    """A model that a server answers for.

    It tells text alone: no reference's loss, no choice's log-probability and no control token is known. A prompt that
    doesn't fit the model's context, and an answer to be continued on a server that can't, stay unanswered and so
    unscored. The same request is sent once, whichever suite asks it.
    """

    def __init__(self, config: ReferenceConfig, kept_in: Callable[[str], Path] | None = None) -> None:
        """Asks a server.

        Args:
            config: of the reference.
            kept_in: gives the file for the answers of a model, by its key; None: they are forgotten afterwards.
        """
        if importlib.util.find_spec("openai") is None:
            raise ModelError(
                f"reference {config.name}: asking a server needs the package openai; run pip install 'sft-harness[endpoints]'"
            )
        self._config = config
        self._endpoint = Endpoint(config)
        self._answers: dict[str, Answer] = {}
        self._kept_in = kept_in
        self._file: Path | None = None
        self._fingerprints: set[str] = set()
        self._wants_new_limit = False

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """None is known."""
        return ()

    @cached_property
    def key(self) -> dict[str, str]:
        """What tells its answers from those of another model: address, name, and what the server says of itself.

        Other weights under the same name can't be told apart where the server doesn't say so.
        """
        told = asyncio.run(self._identity())
        return {"url": self._endpoint.url, "model": str(self._config.model)} | told

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        """See `Respondent`; seconds are those of the request, pauses before new tries included."""
        samples = range(sampling.num_samples)
        model = str(self._config.model)
        asked = [
            [request_for(example, model=model, as_text=as_text, sampling=sampling, sample=sample) for sample in samples]
            for example in examples
        ]
        wanted = {request.key: request for requests in asked for request in requests}
        self._recall()
        if fresh := [request for key, request in wanted.items() if key not in self._answers]:
            asyncio.run(self._ask(fresh))
        found = [
            tuple(generation_of(request, self._answers[request.key], sample) for sample, request in enumerate(requests))
            for requests in asked
        ]
        self._warn(found, sampling)
        return found

    def _recall(self) -> None:
        """Reads what this model has answered before, once."""
        if self._kept_in is None or self._file is not None:
            return
        self._file = self._kept_in(digest(self.key))
        known = {kept.key: Answer(**kept.model_dump(exclude={"key"})) for kept in whole_lines(self._file, KeptAnswer)}
        self._answers = known | self._answers

    def _keep(self, key: str, answer: Answer) -> None:
        self._answers[key] = answer
        if self._file is not None:
            append_lines(self._file, [KeptAnswer(key=key, **answer._asdict())])

    async def _ask(self, requests: Sequence[Request]) -> None:
        """Keeps every answer as it comes, so that a failure or Ctrl-C loses none that came before."""
        gate = asyncio.Semaphore(self._config.concurrency)
        step = max(1, len(requests) // 10)
        done = 0

        async def keep(client: "AsyncOpenAI", request: Request) -> None:
            nonlocal done
            async with gate:
                self._keep(request.key, await self._answer(client, request))
            done += 1
            if done % step == 0:
                logger.info("reference %s: %d of %d answers", self._config.name, done, len(requests))

        async with self._endpoint.client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for request in requests:
                        group.create_task(keep(client, request))
            except ExceptionGroup as failed:
                # Without its context, which may quote what was sent.
                raise failed.exceptions[0] from None

    async def _answer(self, client: "AsyncOpenAI", request: Request) -> Answer:
        """One answer, or the reason why there is none.

        Raises: ModelError: the server can't be asked, or refuses for a reason that isn't this prompt's own.
        """
        import openai

        started = time.monotonic()
        try:
            reply = reply_of(await self._post(client, request))
        except openai.APIStatusError as error:
            reason = self._endpoint.reason(error)
            if is_too_long(reason, error):
                return Answer("", "prompt_too_long")
            if cannot_continue(reason, request, error):
                return Answer("", "not_asked")
            models = [card["id"] for card in await _cards(client)] if error.status_code == 404 else []
            raise ModelError(self._endpoint.problem(error, request, models)) from None
        except (openai.OpenAIError, ValueError) as error:
            raise ModelError(self._endpoint.problem(error, request)) from None
        if reply.system_fingerprint:
            self._fingerprints.add(reply.system_fingerprint)
        return answer_of(reply, time.monotonic() - started)

    async def _post(self, client: "AsyncOpenAI", request: Request) -> object:
        """The JSON of an answer; OpenAI's newer models are asked again with their own name for the limit."""
        import openai

        body = _with_new_limit(request.body) if self._wants_new_limit else request.body
        try:
            return await client.post(request.path, body=body, cast_to=object)
        except openai.BadRequestError as error:
            reason = self._endpoint.reason(error)
            if OLD_LIMIT not in body or NEW_LIMIT not in reason or is_too_long(reason, error):
                raise
        self._wants_new_limit = True
        return await client.post(request.path, body=_with_new_limit(request.body), cast_to=object)

    async def _identity(self) -> dict[str, str]:
        """What the server says of itself; nothing where it says nothing."""
        import openai

        async with self._endpoint.client() as client:
            card = next((card for card in await _cards(client) if card["id"] == self._config.model), {})
            told = {name: str(card[name]) for name in CARD_FIELDS if card.get(name) is not None}
            if told.get("owned_by") == "vllm":
                try:
                    version: Any = await client.get(
                        urljoin(self._endpoint.url, "/version"), cast_to=object, options={"max_retries": 0}
                    )
                    told["version"] = str(version["version"])
                except (openai.OpenAIError, ValueError, LookupError, TypeError) as error:
                    logger.debug("%s tells no version: %s", self._endpoint.url, type(error).__name__)
        return told

    def _warn(self, found: Sequence[tuple[Generation, ...]], sampling: Sampling) -> None:
        name = self._config.name
        reasons = [generations[0].stop_reason for generations in found]
        if too_long := reasons.count("prompt_too_long"):
            logger.warning("reference %s: %d of %d prompts leave no room for %d new tokens in the model's context and are unscored",
                           name, too_long, len(found), sampling.max_new_tokens)  # fmt: skip
        if begun := reasons.count("not_asked"):
            logger.warning("reference %s: %d of %d answers are begun by their prompt, which this server can't continue, and are unscored",
                           name, begun, len(found))  # fmt: skip
        drawn = [{generation.text for generation in generations} for generations in found if generations[0].text]
        if sampling.num_samples > 1 and drawn and all(len(texts) == 1 for texts in drawn):
            logger.warning("reference %s: all samples of every prompt are the same; the server seems to ignore temperature %g",
                           name, sampling.temperature)  # fmt: skip
        if len(self._fingerprints) > 1:
            logger.warning("reference %s: the server changed while it was asked (system_fingerprint %s)",
                           name, ", ".join(sorted(self._fingerprints)))  # fmt: skip


def _with_new_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    return {NEW_LIMIT if name == OLD_LIMIT else name: value for name, value in body.items()}


async def _cards(client: "AsyncOpenAI") -> list[dict[str, Any]]:
    """The models that a server lists; none where it lists none, which several kinds of servers don't."""
    import openai

    try:
        listing = await client.get("/models", cast_to=object, options={"max_retries": 0})
    except (openai.OpenAIError, ValueError):
        return []
    entries = listing.get("data") if isinstance(listing, dict) else None
    return [entry for entry in entries or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
