"""What a node shows on itself after a run: small pictures, a few lines of text, warnings.

The pictures are ComfyUI's own previews. The text is drawn by the pack's web/js/report.js, because ComfyUI shows the
text of its own preview nodes only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import ui
from torch import Tensor

from ...pidiff_core.images import bchw_to_bhwc, bhwc_to_bchw, resize_bchw

MOST_PICTURES = 8
MOST_SIDE_PX = 512


def report(
    *,
    images_bhwc: Tensor | None = None,
    most_side_px: int = MOST_SIDE_PX,
    text: str = "",
    warnings: Sequence[str] = (),
) -> dict[str, Any] | None:
    """A node's `ui`. Warnings are also written to the log.

    Args:
        images_bhwc: (B, H, W, 3) in [0, 1]; the first MOST_PICTURES are shown.
        most_side_px: size to which larger pictures are reduced.
        text: lines for the user.
        warnings: sentences about what runs, but can hardly be meant.

    Returns:
        None if there is nothing to show.
    """
    for sentence in warnings:
        logging.warning("PIDiff: %s", sentence)
    shown: dict[str, Any] = {}
    if images_bhwc is not None:
        few = images_bhwc[:MOST_PICTURES]
        if (side := max(few.shape[1:3])) > most_side_px:
            height, width = (max(1, round(px * most_side_px / side)) for px in few.shape[1:3])
            few = bchw_to_bhwc(resize_bchw(bhwc_to_bchw(few), (height, width)))
        shown |= ui.PreviewImage(few).as_dict()
    if text or warnings:
        shown["text"] = ("\n".join([*warnings, *([text] if text else [])]),)
    if warnings:
        shown["pidiff_warnings"] = list(warnings)
    return shown or None
