"""Look up known faults of the packages that the pack needs: `python scripts/audit.py`.

Runs pip-audit on the packages of requirements.txt, in the versions that are installed here. pip-audit reports success
even if the index knows none of them, so this lists what could not be looked up. The last line is one JSON object; the
exit status is 1 if a fault is known, and 2 if none is known but a package could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    environment.ensure(__file__)
    from packaging.requirements import Requirement

    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    names = [Requirement(line).name for line in lines if line]
    report = audited({name: version(name) for name in names})
    print(json.dumps(report))
    return 1 if report["faults"] else 2 if report["not_looked_up"] else 0


def audited(versions: Mapping[str, str]) -> dict[str, Any]:
    """What pip-audit knows of these versions of packages."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder, "pinned.txt")
        pinned.write_text("".join(f"{name}=={number}\n" for name, number in versions.items()))
        command = [sys.executable, "-m", "pip_audit", "-r", str(pinned), "--no-deps", "--disable-pip", "-f", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
    return summary(versions, json.loads(done.stdout)["dependencies"] if done.stdout.strip() else [])


def summary(versions: Mapping[str, str], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """pip-audit's answers as versions, identifiers of known faults by package, and packages it could not look up."""
    known = {answer["name"]: answer["vulns"] for answer in answers if "vulns" in answer}
    faults = {name: [fault["id"] for fault in found] for name, found in known.items() if found}
    return {"versions": dict(versions), "faults": faults, "not_looked_up": sorted(set(versions) - set(known))}


if __name__ == "__main__":
    raise SystemExit(main())
