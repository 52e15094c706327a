"""Fixtures for prepared data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pidiff_core.mini.bundle import load_identity
from tests.training.data.rendered_people import PoolingBase, draw_people


@pytest.fixture(scope="session")
def mini_model():
    return load_identity()


@pytest.fixture
def base():
    return PoolingBase()


@pytest.fixture(scope="session")
def people_folder(tmp_path_factory) -> Path:
    """Five people, three photos each; not to be changed."""
    folder = tmp_path_factory.mktemp("people")
    draw_people(folder, people=5)
    return folder
