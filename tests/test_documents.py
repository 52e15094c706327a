"""README, CONTRIBUTING and docs: what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_commands_lead_to_files(document):
    text = document.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not {link for link in links if link and not (document.parent / link).exists()}
    scripts = re.findall(r"python (scripts/\w+\.py)", text)
    modules = [name.replace(".", "/") for name in re.findall(r"python -m (pidiff_core[.\w]*)", text)]
    missing = {name for name in scripts if not (ROOT / name).is_file()}
    missing |= {
        name for name in modules if not any((ROOT / f"{name}{end}").is_file() for end in (".py", "/__main__.py"))
    }
    # Paths in code style, such as `pidiff_core/adapter/folding.py`.
    folders = "benchmarks|docs|drawn_world|locales|nodes|pidiff_core|scripts|tests|web|workflows"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
    missing |= {name for name in named if not (ROOT / name).exists()}
    # Modules may be named from the core or the nodes on: `adapter/folding.py`.
    tops = (ROOT, ROOT / "pidiff_core", ROOT / "nodes", ROOT / "scripts")
    modules = re.findall(r"`(\w+/[\w/]+\.py)`", text)
    missing |= {name for name in modules if not any((top / name).is_file() for top in tops)}
    assert not missing


def test_anchors_of_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings


def test_the_readme_names_every_node_and_workflow():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    nodes = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert not {node_id for node_id in nodes if f"`{node_id}`" not in text}
    assert not {path.name for path in (ROOT / "workflows").glob("*.json") if f"(workflows/{path.name})" not in text}


def test_the_two_commands_for_developers_are_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\npython scripts/demo.py" in text
    assert "\npython scripts/test.py\n" in text


def test_no_file_has_the_words_that_the_style_rules_out():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ruled_out = re.compile(r"\b(nobody|somebody|whoever)\b", re.IGNORECASE)
    found = set()
    for name in listed:
        path = ROOT / name
        if name.startswith("tests/") or name == "LICENSE" or "zh" in path.parts or path.stem == "zh":
            continue
        if path.suffix in (".py", ".md", ".json", ".toml", ".txt", ".yml", ".yaml", ".js"):
            found |= {f"{name}: {match[0]}" for match in ruled_out.finditer(path.read_text(encoding="utf-8"))}
    assert not found
