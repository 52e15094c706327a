"""Run every test: `python scripts/test.py [pytest arguments]`.

Sets up the environment, the ComfyUI versions and a Chromium for the browser tests, then starts pytest: in two processes
where there are two cores or more. Without a Chromium the browser tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import environment
from browser import find_browser, install_browser

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    environment.ensure(__file__)
    import comfy_host

    for version in comfy_host.RELEASES:
        environment.say(f"ComfyUI {version}: {comfy_host.prepare(version).tree}")
    browser = find_browser() or install_browser()
    environment.say(f"Chromium: {browser or 'none found, the browser tests will be skipped'}")
    cores = os.cpu_count() or 1
    processes = min(2, cores)
    environ = {"OMP_NUM_THREADS": str(min(4, cores // processes)), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    # A process that ended is not started again: what ended it is a fault to be seen.
    spread = ["-n", str(processes), "--dist", "loadgroup", "--no-loadscope-reorder", "--max-worker-restart", "0"]
    arguments = [*(spread if processes > 1 else []), *sys.argv[1:]]
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
