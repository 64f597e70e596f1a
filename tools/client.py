"""A client of ComfyUI's HTTP API: queues a prompt, follows it over the websocket, fetches what it made."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp

from .graph import Json, to_prompt

ProgressCallback = Callable[[str, int, int], None]
"""Called with a node's class type, the steps done, and all steps."""

TIMEOUT = 600.0  # seconds for one prompt


class NodeError(RuntimeError):
    """The server refused a prompt or failed in it; `node_id` and `node_type` say where, and are "" where unknown."""

    def __init__(self, message: str, node_id: str = "", node_type: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


class PromptRejectedError(NodeError):
    """The prompt did not pass the server's validation: nothing was run."""


class ExecutionError(NodeError):
    """A node raised an error, or the prompt was interrupted."""


@dataclass(frozen=True)
class Picture:
    """One picture as the server saved it."""

    node_id: str
    filename: str
    kind: str  # "output", or "temp" for a preview
    data: bytes  # of the file: PNG with the workflow in its metadata


@dataclass(frozen=True)
class Result:
    """What a prompt made."""

    pictures: list[Picture]
    texts: dict[str, list[str]]  # what nodes show as text, by node id
    seconds: float
    outputs: dict[str, Json] = field(repr=False)  # everything that nodes show, by node id, as in /history

    @property
    def saved(self) -> list[Picture]:
        """The pictures that were saved, not only previewed, in the order of their nodes' numbers."""
        return sorted((one for one in self.pictures if one.kind == "output"), key=lambda one: int(one.node_id))


class Client:
    """Talks to the ComfyUI server at `address`, for instance ``127.0.0.1:8188``."""

    def __init__(self, address: str) -> None:
        self.base = f"http://{address}"
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> bytes:
        """The body of a GET request; raises aiohttp.ClientResponseError for a status other than 2xx."""

        async def request() -> bytes:
            async with aiohttp.ClientSession(self.base) as session:
                return await _get(session, path)

        return asyncio.run(request())

    def get_json(self, path: str) -> Any:
        """The JSON that a GET request answers."""
        return json.loads(self.get(path))

    def object_info(self) -> dict[str, Json]:
        """Every node that the server has, with its inputs and outputs."""
        return self.get_json("/object_info")

    def run_workflow(self, workflow: Json, on_progress: ProgressCallback | None = None) -> Result:
        """Runs a workflow as the editor saves it; the pictures carry it, so that they open in the editor."""
        prompt = to_prompt(workflow, self.object_info())
        return self.run(prompt, on_progress, extra_pnginfo={"workflow": workflow})

    def run(
        self,
        prompt: Json,
        on_progress: ProgressCallback | None = None,
        *,
        extra_pnginfo: Json | None = None,
        timeout: float = TIMEOUT,
    ) -> Result:
        """Queues a prompt, waits for its end, and fetches its pictures and texts.

        Raises PromptRejectedError and ExecutionError with the node and what is wrong with it, TimeoutError after
        `timeout` seconds, ConnectionError where the server goes away.
        """
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_progress, extra_pnginfo or {}), timeout))

    async def _run(self, prompt: Json, on_progress: ProgressCallback | None, extra_pnginfo: Json) -> Result:
        begin = time.perf_counter()
        async with (
            aiohttp.ClientSession(self.base) as session,
            # Connected before queueing, or the first messages would be lost. Previews can be large.
            session.ws_connect(f"/ws?clientId={self.client_id}", max_msg_size=0) as socket,
        ):
            prompt_id = await self._queue(session, prompt, extra_pnginfo)
            await _follow(socket, prompt_id, prompt, on_progress)
            outputs = await _outputs(session, prompt_id)
            pictures = [
                Picture(node_id, image["filename"], image["type"], await _get(session, f"/view?{urlencode(image)}"))
                for node_id, shown in outputs.items()
                for image in shown.get("images", [])
            ]
        texts = {node_id: list(shown["text"]) for node_id, shown in outputs.items() if "text" in shown}
        return Result(pictures, texts, time.perf_counter() - begin, outputs)

    async def _queue(self, session: aiohttp.ClientSession, prompt: Json, extra_pnginfo: Json) -> str:
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": {"extra_pnginfo": extra_pnginfo}}
        async with session.post("/prompt", json=body) as response:
            answer = await response.json()
        # The server also accepts a prompt of which only some outputs are valid; half a result is none.
        if response.status != 200 or answer.get("node_errors"):
            if "prompt_id" in answer:
                await session.post("/queue", json={"delete": [answer["prompt_id"]]})
            raise _rejection(answer)
        return answer["prompt_id"]


async def _get(session: aiohttp.ClientSession, path: str) -> bytes:
    async with session.get(path) as response:
        response.raise_for_status()
        return await response.read()


async def _follow(
    socket: aiohttp.ClientWebSocketResponse[Any], prompt_id: str, prompt: Json, on_progress: ProgressCallback | None
) -> None:
    """Reads messages until the prompt has ended; raises ExecutionError where it ended badly."""
    async for message in socket:
        if message.type != aiohttp.WSMsgType.TEXT:  # binary messages are previews
            continue
        event = json.loads(message.data)
        kind, data = event["type"], event.get("data") or {}
        if data.get("prompt_id") != prompt_id:
            continue
        node_type = prompt.get(str(data.get("node")), {}).get("class_type", "")
        if kind == "progress" and on_progress:
            on_progress(node_type, data["value"], data["max"])
        elif kind == "execution_error":
            node_id, node_type = str(data["node_id"]), data["node_type"]
            kind = data["exception_type"].rpartition(".")[2]  # a pack's module is named by its whole path
            text = f"Node {node_id} ({node_type}): {kind}: {data['exception_message'].strip()}"
            raise ExecutionError(text, node_id, node_type)
        elif kind == "execution_interrupted":
            raise ExecutionError("The prompt was interrupted.", str(data["node_id"]), data["node_type"])
        elif kind == "executing" and data.get("node") is None:
            return
    raise ConnectionError("ComfyUI's server closed the connection while it ran the prompt; its log says why.")


async def _outputs(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Json]:
    """What the nodes of an ended prompt show."""
    history = json.loads(await _get(session, f"/history/{prompt_id}"))
    if prompt_id not in history:
        raise ConnectionError(f"ComfyUI's server has no record of prompt {prompt_id}.")
    return history[prompt_id]["outputs"]


def _rejection(answer: Json) -> PromptRejectedError:
    """The error for a prompt that the server did not take, from its answer."""
    lines: list[str] = []
    first_id = first_type = ""
    for node_id, found in (answer.get("node_errors") or {}).items():
        first_id, first_type = first_id or node_id, first_type or found["class_type"]
        for error in found["errors"]:
            lines.append(f"Node {node_id} ({found['class_type']}): {error['message']}: {error['details']}")
    if not lines:
        error = answer.get("error", answer)
        lines = [f"{error['message']}: {error['details']}" if isinstance(error, dict) else str(error)]
    return PromptRejectedError("\n".join(lines), first_id, first_type)
