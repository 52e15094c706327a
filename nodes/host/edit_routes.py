"""Two routes of ComfyUI's server for the sliders of StyleEdit.

A run of StyleEdit leaves its codes here and sends the browser a key. With that key the panel asks for the list of its
sliders (`open`) and for a portrait of the codes after an edit (`draw`).

Threat model. The routes are reachable by everyone who reaches ComfyUI's server, and by web pages as far as ComfyUI's
own check of origins lets them. Therefore:

- They read and write no file. A request names directions only, and is answered from those that a run has read.
- A key is random and belongs to one run. It is needed for every request, and gives portraits of that run's people,
  never codes.
- Memory is bounded: the codes of the last MOST_RUNS runs with MOST_PEOPLE each; models are held weakly; one small copy
  of a generator (at most PORTRAIT_PX), dropped with its model.
- Size is bounded: MOST_BYTES a request, one portrait of at most PORTRAIT_PX an answer.
- Rate is bounded: one portrait is computed at a time, MOST_WAITING requests wait, and more are refused.
- Numbers are checked like those of a workflow (`pidiff_core.wplus.edits`). Errors are returned as a sentence in JSON.
- Portraits are drawn by the copy, on the CPU. A running workflow keeps its models on their device, and is not
  interrupted.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...pidiff_core.errors import PIDiffError
from .edit_preview import draw, open_panel

if TYPE_CHECKING:
    from aiohttp import web

OPEN, DRAW = "/pidiff/edit/open", "/pidiff/edit/draw"
MOST_BYTES = 32_768
MOST_WAITING = 3
_MOST_READING_S = 10.0

_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pidiff-preview")
_waiting = 0


def register() -> None:
    """Add the routes to ComfyUI's server, if there is one in this process."""
    host = sys.modules.get("server")
    running = getattr(getattr(host, "PromptServer", None), "instance", None)
    if running is None:
        return
    from aiohttp import web  # ComfyUI's server has imported it

    @running.routes.post(OPEN)
    async def _open(request: web.Request) -> web.Response:
        return await respond(request, lambda content: web.json_response(open_panel(content)))

    @running.routes.post(DRAW)
    async def _draw(request: web.Request) -> web.Response:
        return await respond(request, lambda content: web.Response(body=draw(content), content_type="image/png"))


async def respond(request: web.Request, answer: Callable[[Mapping[str, Any]], web.Response]) -> web.Response:
    """Read a bounded request and answer it from the one worker; errors are sentences in JSON."""
    global _waiting
    if _waiting >= MOST_WAITING:
        return _refusal(429, "Too many previews are waiting. Try again in a moment.")
    _waiting += 1
    try:
        body = await asyncio.wait_for(_bounded(request), _MOST_READING_S)
        if len(body) > MOST_BYTES:
            return _refusal(413, f"The request has more than {MOST_BYTES} bytes.")
        content = json.loads(body)
        if not isinstance(content, dict):
            raise ValueError
        return await asyncio.get_running_loop().run_in_executor(_worker, answer, content)
    except PIDiffError as error:
        return _refusal(400, str(error))
    except (ValueError, RecursionError):
        return _refusal(400, "The request should be an object in JSON.")
    except asyncio.TimeoutError:
        return _refusal(408, "The request did not arrive in time.")
    finally:
        _waiting -= 1


async def _bounded(request: web.Request) -> bytes:
    """The body, or a little more than MOST_BYTES of it."""
    body = b""
    while len(body) <= MOST_BYTES and (part := await request.content.read(MOST_BYTES + 1)):
        body += part
    return body


def _refusal(status: int, sentence: str) -> web.Response:
    from aiohttp import web

    return web.json_response({"error": sentence}, status=status)
