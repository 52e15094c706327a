"""Run every test: `python scripts/test.py [pytest arguments]`.

Sets up the environment, both ComfyUI versions and a Chromium for the browser tests (the system's, or Debian's package
where this runs as root; elsewhere those tests are skipped and say so), then hands over to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)


def find_browser() -> str | None:
    """The Chromium to test with: the variable PIDIFF_CHROMIUM, else the first of BROWSERS that is installed."""
    named = os.environ.get("PIDIFF_CHROMIUM")
    return next((path for name in filter(None, (named, *BROWSERS)) if (path := shutil.which(name))), None)


def install_browser() -> str | None:
    """Install Debian's Chromium where that is possible without asking anybody; returns its path or None."""
    if not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get")):
        return None
    environment.say("installing Chromium for the browser tests (apt-get)")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            environment.say(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")
    return find_browser()


def main() -> int:
    environment.ensure(__file__)
    import comfy_host

    for version in comfy_host.RELEASES:
        environment.say(f"ComfyUI {version}: {comfy_host.prepare(version).tree}")
    browser = find_browser() or install_browser()
    environment.say(f"Chromium: {browser or 'none found, the browser tests will be skipped'}")
    threads = str(min(4, os.cpu_count() or 1))
    environ = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if browser:
        environ["PIDIFF_CHROMIUM"] = browser
    return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, env=environ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
