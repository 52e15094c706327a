"""Pages of mapped files are given back; memory of our own is left alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from pidiff_core.checkpoint import settle
from pidiff_core.mapped import MappedFiles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can give pages of a mapping back")
MIB = 1 << 20


def mapped_bytes():
    """Pages of files that count as this process's memory."""
    return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.fixture
def mapped(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(16 * MIB, dtype=torch.float32).view(4096, 4096)}, path)
    return torch.load(path, weights_only=True, mmap=True)["weight"]


def test_pages_are_given_back_and_can_be_read_again(mapped):
    before = mapped_bytes()
    total = mapped.sum()
    assert mapped_bytes() - before > 60 * MIB
    MappedFiles().release(mapped)
    assert mapped_bytes() - before < 4 * MIB
    assert torch.equal(mapped.sum(), total)


def test_memory_of_our_own_is_left_alone():
    own = torch.ones(4 * MIB)
    MappedFiles().release(own)
    assert bool((own == 1).all())


def test_a_settled_network_leaves_its_file(mapped):
    with torch.device("meta"):
        network = torch.nn.Linear(4096, 4096, bias=False)
    network.load_state_dict({"weight": mapped}, assign=True)
    before = mapped_bytes()
    settle(network, name="the network")
    assert mapped_bytes() - before < 8 * MIB
    assert float(network.weight[-1, -1]) == 16 * MIB - 1
