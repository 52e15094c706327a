"""Frozen base models to train on: Stable Diffusion 1.x, 2.x and XL as people have them, and the embedded one."""

from .base import Base, TextCondition
from .load import load_base

__all__ = ["Base", "TextCondition", "load_base"]
