"""Progress, interrupts and warnings: what ComfyUI shows of long work, and how it asks to stop it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils

from ...pidiff_core.errors import register_host

_STEPS = 200  # of the bar
LOGGER = logging.getLogger("PIDiff")


class _OnTheNode(logging.Handler):
    """Shows a warning on the node that runs, in addition to the log: that of a sampler, for example."""

    def emit(self, record: logging.LogRecord) -> None:
        server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
        node_id = getattr(server, "last_node_id", None)
        if node_id is not None and hasattr(server, "send_progress_text"):
            with contextlib.suppress(Exception):  # the log has it already
                server.send_progress_text(record.getMessage(), node_id)


def register() -> None:
    """Let the core ask for ComfyUI's Cancel, and never catch it; show the pack's warnings on the nodes."""
    if not any(isinstance(handler, _OnTheNode) for handler in LOGGER.handlers):
        LOGGER.addHandler(_OnTheNode(logging.WARNING))
    register_host(
        comfy.model_management.throw_exception_if_processing_interrupted,
        comfy.model_management.InterruptProcessingException,
    )


def progress_bar() -> Callable[[float], None]:
    """The node's progress bar; call it with the fraction of the work that is done, from 0 to 1."""
    bar = comfy.utils.ProgressBar(_STEPS)
    return lambda done: bar.update_absolute(round(done * _STEPS), _STEPS)
