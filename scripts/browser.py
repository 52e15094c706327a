"""Find or install a Chromium for the browser tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import environment

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)
# The first two are needed as root and without a display; the others stop background network traffic.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_browser() -> str | None:
    """The Chromium to test with: the variable PIDIFF_CHROMIUM, else the first of NAMES that is installed."""
    named = os.environ.get("PIDIFF_CHROMIUM")
    return next((path for name in filter(None, (named, *NAMES)) if (path := shutil.which(name))), None)


def install_browser() -> str | None:
    """Install Debian's Chromium package if this runs as root on Debian or Ubuntu; returns its path or None."""
    if not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get")):
        return None
    environment.say("installing Chromium for the browser tests (apt-get)")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            environment.say(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")
    return find_browser()
