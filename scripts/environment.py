"""The virtual environment that every script of this checkout runs in.

A script begins with `environment.ensure(__file__)`. If it does not run in the environment, this creates the environment
in `.venv` (or in the folder that `PIDIFF_VENV` names), installs `scripts/requirements.txt` with pip from the configured
index, and runs the script again inside. Only the standard library is used up to that point. With `PIDIFF_VENV=none`
nothing is installed: the script runs in the Python that it was started with.

A stamp file in the environment holds the hash of the requirements, so a second run does not install again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "scripts" / "requirements.txt"
SUPPORTED = ((3, 10), (3, 13))


def say(text: str) -> None:
    print(f"[pidiff] {text}", flush=True)


def stop(text: str) -> NoReturn:
    """End the script with a sentence instead of a traceback."""
    say(text)
    raise SystemExit(1)


def venv_dir() -> Path:
    return Path(os.environ.get("PIDIFF_VENV") or ROOT / ".venv").absolute()


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure(script: str) -> None:
    """Return if this process runs in the finished environment; otherwise set it up and run `script` again in it.

    Args:
        script: the caller's `__file__`.
    """
    if os.environ.get("PIDIFF_VENV") == "none":
        return
    venv = venv_dir()
    if Path(sys.prefix).resolve() == venv.resolve():
        set_up(venv)
        return
    set_up(venv)
    command = [str(venv_python(venv)), script, *sys.argv[1:]]
    if os.name == "nt":  # on Windows execv returns to the shell before the new program has ended
        raise SystemExit(subprocess.run(command).returncode)
    os.execv(command[0], command)


def set_up(venv: Path) -> None:
    """Install the requirements into `venv`, unless the stamp shows that this was done."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        found, first, last = (".".join(map(str, version)) for version in (sys.version_info[:3], *SUPPORTED))
        stop(f"this is Python {found}; PIDiff's scripts need {first} to {last}. Start them with such a Python.")
    wanted = _fingerprint()
    stamp = venv / "pidiff-requirements.sha256"
    if venv_python(venv).exists() and stamp.exists() and stamp.read_text().strip() == wanted:
        return
    began = time.monotonic()
    say(f"setting up the Python environment in {venv}: once, about 6 GB (mostly torch), some minutes")
    pip = _make_venv(venv)
    _install(pip, ["-r", str(REQUIREMENTS)])
    stamp.write_text(wanted + "\n")
    say(f"the environment is ready after {time.monotonic() - began:.0f} s")


def _fingerprint() -> str:
    """Hash of the requirements."""
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()


def _make_venv(venv: Path) -> list[str]:
    """Create the environment if it is missing or broken; returns the command that starts its pip.

    Debian and others ship Python without ensurepip; a pip of 22.3 or later from outside can then install into it.
    """
    python = str(venv_python(venv))
    if _works([python, "-m", "pip", "--version"]):
        return [python, "-m", "pip"]
    outer_pip = [sys.executable, "-m", "pip", "--python", python]
    if _works([python, "--version"]) and _works([*outer_pip, "--version"]):
        return outer_pip
    if _works([sys.executable, "-m", "venv", "--clear", str(venv)]):
        return [python, "-m", "pip"]
    if _works([sys.executable, "-m", "virtualenv", "--clear", str(venv)]):
        return [python, "-m", "pip"]
    bare = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)]
    if _works(bare) and _works([*outer_pip, "--version"]):
        return outer_pip
    stop(
        f"{sys.executable} cannot make a virtual environment: neither its venv and ensurepip modules nor virtualenv "
        "work. On Debian and Ubuntu: apt-get install python3-venv. Elsewhere: install Python from python.org."
    )


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def _install(pip: list[str], arguments: list[str]) -> None:
    """Run pip and print its progress, without the lines about satisfied requirements."""
    command = [*pip, "install", "--disable-pip-version-check", "--no-warn-script-location", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", bufsize=1)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() and not line.startswith("Requirement already satisfied"):
            print("   ", line.rstrip()[:150], flush=True)
    if process.wait() != 0:
        stop(
            "pip could not install the packages; its message is above. If it is a network error, check that a package "
            "index can be reached (`pip config list`), then run the same command again: it continues from here."
        )


if __name__ == "__main__":
    ensure(__file__)
    say(f"ready: {sys.executable}")
