"""The harness itself: ComfyUI is imported or started, and is gone afterwards whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import comfy_host


def test_comfy_modules_win_over_the_checkouts_own(comfy, root):
    import nodes

    assert str(nodes.__file__).startswith(str(comfy.tree))
    assert str(root) not in sys.path[: sys.path.index(str(comfy.tree))]


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path):
    with pytest.raises(comfy_host.HostError, match="is not a ComfyUI folder"):
        comfy_host.resolve(tmp_path)


def test_the_users_own_comfyui_is_taken_from_the_environment(monkeypatch):
    tree = comfy_host.prepare().tree
    monkeypatch.setenv("COMFYUI_PATH", str(tree))
    host = comfy_host.resolve()
    assert host.tree.samefile(tree)
    assert host.frontend is None


def test_a_server_that_cannot_start_says_why(tmp_path):
    server = comfy_host.ComfyServer(comfy_host.prepare(), base=tmp_path, arguments=("--no-such-option",))
    with pytest.raises(comfy_host.HostError, match="no-such-option"), server:
        pass
    assert not server.is_alive()


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="the fault handler is asked by a signal")
def test_a_server_that_is_not_ready_in_time_says_what_it_was_doing(tmp_path):
    server = comfy_host.ComfyServer(comfy_host.prepare(), base=tmp_path, start_timeout_s=1.0)
    with (
        pytest.raises(comfy_host.HostError, match=r'(?s)not ready after 1 s.*Fatal Python error: Aborted.*File "'),
        server,
    ):
        pass
    assert not server.is_alive()


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc whether the server lives")
@pytest.mark.parametrize("how", ["exception", "interrupt", "kill"])
def test_the_server_is_stopped_whatever_ends_the_script(how, tmp_path, root):
    script = f"""
        import pathlib, signal, sys, time
        sys.path.insert(0, {str(root / "scripts")!r})
        import comfy_host
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started it in the background
        with comfy_host.ComfyServer(base=pathlib.Path({str(tmp_path)!r})) as server:
            print(server._process.pid, flush=True)
            if {how!r} == "exception":
                raise ValueError("on purpose")
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if how != "exception":
            assert _runs(pid)
            process.send_signal({"interrupt": signal.SIGINT, "kill": signal.SIGKILL}[how])
        process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
