"""Run every test: `python scripts/test.py [pytest arguments]`.

Sets up the environment, both ComfyUI versions and a Chromium for the browser tests (where there is none and none can be
installed, those tests are skipped and say so), then hands over to pytest.
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
    threads = str(min(4, os.cpu_count() or 1))
    environ = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, env=environ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
