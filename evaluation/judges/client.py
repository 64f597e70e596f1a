"""Any endpoint that speaks OpenAI's chat protocol, hosted or local, through the official client."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

from ..jobs import EvaluationError

INSTALL = 'pip install "openai>=1.40"'
HOSTED = "https://api.openai.com/v1"
LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""What servers call the limit of an answer: newer hosted models know only the second, many local servers the first."""

LONGEST_WAIT = 600.0
"""Seconds. A server that asks for more patience has said no."""


class RefusedError(Exception):
    """The server will not answer this request, whatever else it answers; the message is the server's."""


class StoppedError(Exception):
    """Given up between two attempts because another request showed that there is no point."""


class Answer(NamedTuple):
    """What came back."""

    text: str
    finish: str
    """Why the model stopped: "stop", "length", "content_filter", ..."""
    usage: dict[str, int]
    """Tokens that were paid for: "prompt_tokens" and "completion_tokens", where the server counts them."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers, and how patient we are."""

    model: str
    base_url: str = HOSTED
    temperature: float = 1.0
    max_tokens: int = 2048
    timeout: float = 120.0
    """Seconds for one attempt."""
    retries: int = 6
    """After rate limits, timeouts, broken connections and errors of the server."""
    pause: float = 1.0
    """Seconds before the first of them; each further one waits twice as long, or as long as the server says."""


class Client:
    """Asks an endpoint; may be used by several threads at once."""

    def __init__(self, endpoint: Endpoint, key: str, stop: Event | None = None) -> None:
        """`key` is sent and kept nowhere; `stop` ends waiting. Raises EvaluationError where openai is not installed."""
        try:
            import openai
        except ImportError as error:
            raise EvaluationError(f"--judge vlm needs the openai client: {INSTALL}") from error
        self.endpoint, self.stop = endpoint, stop or Event()
        self._openai, self._key, self._limit = openai, key, LIMIT
        self._client = openai.OpenAI(
            api_key=key, base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0
        )  # its own retries cannot be interrupted

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def ask(self, text: str, pictures: Sequence[bytes]) -> Answer:
        """One answer to a text and PNG pictures, after as many retries as the endpoint allows.

        Raises EvaluationError where no request can succeed or the server does not answer, RefusedError for this one.
        """
        retried = 0
        while True:
            limit = self._limit
            try:
                return self._once(text, pictures, limit)
            except self._openai.BadRequestError as error:
                if limit == NEWER_LIMIT or NEWER_LIMIT not in str(error):
                    raise RefusedError(self._said(error)) from error
                self._limit = NEWER_LIMIT
            except (self._openai.APIError, _NoCompletionError) as error:
                retried += 1
                wait = self._wait(error, retried)
                if self.stop.wait(wait):
                    raise StoppedError from error

    def _once(self, text: str, pictures: Sequence[bytes], limit: str) -> Answer:
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for picture in pictures:
            url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        create: Any = self._client.chat.completions.create
        try:
            given = create(
                model=self.endpoint.model,
                messages=[{"role": "user", "content": content}],
                temperature=self.endpoint.temperature,
                **{limit: self.endpoint.max_tokens},
            )
            choice = given.choices[0]
            answer, finish = choice.message.content or "", str(choice.finish_reason)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            # a proxy's page, half a body, an error sent as 200
            raise _NoCompletionError("its answer is no chat completion") from error
        usage = {name: getattr(given.usage, name, None) for name in ("prompt_tokens", "completion_tokens")}
        return Answer(str(answer), finish, {name: count for name, count in usage.items() if isinstance(count, int)})

    def _wait(self, error: Any, retried: int) -> float:
        """Seconds until the next attempt. Raises EvaluationError where there should be none."""
        where, status = f"{self.endpoint.base_url} ({self.endpoint.model})", getattr(error, "status_code", None)
        if status in (401, 403):
            raise EvaluationError(
                f"{where} refuses the key (status {status}). Check the environment variable that holds it."
            ) from error
        if status == 404:
            raise EvaluationError(
                f"{where} is not there (status 404: {self._said(error)}). Check --base-url, which often ends in /v1, "
                "and --model."
            ) from error
        if status is not None and status not in (408, 409, 425, 429) and status < 500:
            raise RefusedError(f"status {status}: {self._said(error)}") from error
        asked = _retry_after(error)
        if getattr(error, "code", None) == "insufficient_quota" or (asked or 0) > LONGEST_WAIT:
            raise EvaluationError(f"{where} gives no more answers for now: {self._said(error)}") from error
        if retried > self.endpoint.retries:
            raise EvaluationError(
                f"{where} does not answer: {self._said(error)}; given up after {retried} attempts of at most "
                f"{self.endpoint.timeout:g} s. What is finished is kept; the same command goes on later."
            ) from error
        return asked if asked is not None else min(self.endpoint.pause * 2.0 ** (retried - 1), 60.0)

    def _said(self, error: Exception) -> str:
        """An error's message, short and without the key."""
        return " ".join(str(error).replace(self._key, "...").split())[:300] or type(error).__name__


class _NoCompletionError(Exception):
    """A 200 with something else in it."""


def _retry_after(error: Any) -> float | None:
    """What the server asks for in seconds, if it does; a date is not read."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
