"""Client of a running ComfyUI: queue API-format workflows, follow them over the websocket, fetch the images."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Workflow = dict[str, Any]  # node id -> {"class_type": ..., "inputs": {...}}
Progress = Callable[[str, int, int], None]  # (node id, steps done, steps in all)
Begin = Callable[[str], None]  # (id of the node that begins)


class WorkflowError(RuntimeError):
    """ComfyUI refused a workflow or a node of it failed.

    Attributes:
        node_id, node_type: the node that failed, or "" if the whole workflow was refused.
        message: the sentence a user sees in ComfyUI's error dialogue.
        exception_type: the name of the Python exception, or "" for a refused workflow.
        traceback: the server's own, joined.
    """

    def __init__(
        self, message: str, *, node_id: str = "", node_type: str = "", exception_type: str = "", traceback: str = ""
    ) -> None:
        place = f"node {node_id} ({node_type}): " if node_id else ""
        super().__init__(place + message)
        self.message = message
        self.node_id = node_id
        self.node_type = node_type
        self.exception_type = exception_type
        self.traceback = traceback


@dataclass
class Result:
    """The outputs of one finished workflow."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]  # node id -> its UI output, as in /history
    executed: list[str] = field(
        default_factory=list
    )  # ids of the nodes that ran, in order; cached nodes are not listed

    def images(self, node_id: str | None = None) -> list[dict[str, str]]:
        """References (filename, subfolder, type) to the pictures of one output node, or of all of them."""
        nodes = [node_id] if node_id is not None else list(self.outputs)
        return [image for node in nodes for image in self.outputs.get(node, {}).get("images", [])]


class ComfyClient:
    """One client of one ComfyUI server.

    Args:
        address: "127.0.0.1:8188".
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = uuid.uuid4().hex
        # Proxies from the environment are not used: this server is on the same machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, path: str, body: bytes | None = None, *, content_type: str = "application/json") -> bytes:
        """GET `path`, or POST `body` to it; raises urllib.error.HTTPError."""
        request = urllib.request.Request(f"http://{self.address}{path}", data=body)
        if body is not None:
            request.add_header("Content-Type", content_type)
        with self._opener.open(request, timeout=60) as response:
            return response.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.request(path))

    def object_info(self, node_type: str = "") -> dict[str, Any]:
        """The host's description of all node types, or of one."""
        return self.get_json("/object_info" + (f"/{urllib.parse.quote(node_type)}" if node_type else ""))

    def queue(self, workflow: Workflow) -> str:
        """Queue a workflow and return its prompt id.

        Raises:
            WorkflowError: the server's validation refused it; the message names every node and input at fault.
        """
        body = json.dumps({"prompt": workflow, "client_id": self.client_id}).encode()
        try:
            return json.loads(self.request("/prompt", body))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise _refusal(error.read().decode(errors="replace"), workflow) from None

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self.request("/interrupt", b"")

    def run(
        self,
        workflow: Workflow,
        *,
        on_progress: Progress | None = None,
        on_begin: Begin | None = None,
        timeout_s: float = 1800,
    ) -> Result:
        """Queue a workflow and wait until it has finished.

        Raises:
            WorkflowError: it was refused, or a node raised; the error carries the node's own message.
            TimeoutError: it did not finish within `timeout_s`.
        """
        try:
            return asyncio.run(asyncio.wait_for(self._run(workflow, on_progress, on_begin), timeout_s))
        except asyncio.TimeoutError:
            raise TimeoutError(f"the workflow did not finish within {timeout_s:.0f} s") from None

    async def _run(self, workflow: Workflow, on_progress: Progress | None, on_begin: Begin | None) -> Result:
        import aiohttp

        url = f"ws://{self.address}/ws?clientId={self.client_id}"
        # Connect before queueing: a short workflow would otherwise finish before the socket is open.
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0, timeout=60) as socket:
            prompt_id = await asyncio.to_thread(self.queue, workflow)
            executed: list[str] = []
            async for frame in socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:  # binary frames are previews
                    continue
                message = json.loads(frame.data)
                kind, data = message["type"], message.get("data", {})
                if data.get("prompt_id") != prompt_id:
                    continue
                if kind == "executing" and data["node"] is not None:
                    executed.append(data["node"])
                    if on_begin is not None:
                        on_begin(data["node"])
                elif kind == "executing":  # the last message: only now the outputs are in the history
                    history = await asyncio.to_thread(self.get_json, f"/history/{prompt_id}")
                    return Result(prompt_id, history[prompt_id]["outputs"], executed)
                elif kind == "progress" and on_progress is not None:
                    on_progress(str(data.get("node")), int(data["value"]), int(data["max"]))
                elif kind in ("execution_error", "execution_interrupted"):
                    raise _failure(kind, data)
        raise ConnectionError("ComfyUI closed the connection during a workflow; see its log")

    def upload_image(self, image: Path | bytes, *, name: str | None = None) -> str:
        """Upload a picture to the server's input folder; returns its name for LoadImage."""
        data = image if isinstance(image, bytes) else image.read_bytes()
        name = name or (image.name if isinstance(image, Path) else f"{uuid.uuid4().hex}.png")
        boundary = uuid.uuid4().hex
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        answer = self.request(
            "/upload/image",
            body + data + f"\r\n--{boundary}--\r\n".encode(),
            content_type=f"multipart/form-data; boundary={boundary}",
        )
        return json.loads(answer)["name"]

    def fetch_image(self, reference: dict[str, str]) -> bytes:
        """The bytes of one picture of a Result."""
        return self.request("/view?" + urllib.parse.urlencode(reference))


def _refusal(body: str, workflow: Workflow) -> WorkflowError:
    """The validation errors of /prompt, one per line."""
    try:
        answer = json.loads(body)
    except ValueError:
        return WorkflowError(f"ComfyUI refused the workflow: {body[:500]}")
    lines = []
    node_id = node_type = ""
    for node_id, problem in (answer.get("node_errors") or {}).items():
        node_type = workflow.get(node_id, {}).get("class_type", "?")
        for error in problem.get("errors", []):
            lines.append(f"{node_type} ({node_id}): {error.get('message', '')}: {error.get('details', '')}")
    if not lines:
        error = answer.get("error", answer)
        lines = [f"{error.get('message', '')}: {error.get('details', '')}" if isinstance(error, dict) else str(error)]
    return WorkflowError("\n".join(lines), node_id=node_id, node_type=node_type)


def _failure(kind: str, data: dict[str, Any]) -> WorkflowError:
    if kind == "execution_interrupted":
        return WorkflowError("the workflow was interrupted", node_id=str(data.get("node_id", "")))
    return WorkflowError(
        str(data.get("exception_message", "")).strip(),
        node_id=str(data.get("node_id", "")),
        node_type=str(data.get("node_type", "")),
        exception_type=str(data.get("exception_type", "")),
        traceback="".join(data.get("traceback") or []),
    )
