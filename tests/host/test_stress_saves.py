"""Nobody is lost: a server that is killed while it saves, and two servers with one output folder. Few of each here;
`scripts/stress_saves.py` makes as many as one likes."""

from __future__ import annotations

import random

import pytest

import comfy_host
import stress_saves

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_a_killed_server_leaves_whole_files_and_nothing_else(tmp_path):
    host = comfy_host.prepare()
    report = dict.fromkeys(stress_saves.COUNTS, 0)
    stress_saves.kill_while_saving(host, kills=1, rng=random.Random(3), base=tmp_path, report=report)
    assert report["kills"] == 1
    assert report["files"] >= 2
    assert (report["lost"], report["left_over"]) == (0, 0)


def test_two_servers_with_one_output_folder_write_a_file_for_each_save(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    arguments = ("--output-directory", str(output))
    host = comfy_host.prepare()
    with (
        comfy_host.ComfyServer(host, base=tmp_path / "one", arguments=arguments) as one,
        comfy_host.ComfyServer(host, base=tmp_path / "two", arguments=arguments) as two,
    ):
        report = stress_saves.save_in_all([one, two], output, saves=16)
    assert report == {"saves": 16, "new_files": 16, "left_over": 0}
