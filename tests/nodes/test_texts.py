"""What users read: display names, tooltips, help pages and translations of every node."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.usefixtures("comfy")

SEARCH_WORDS = ("face", "portrait", "age", "smile", "person", "faceid", "ipadapter", "likeness", "average", "morph")
TRANSLATIONS = ("zh", "ja")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Literary English, see the project's style: none of it in anything that a user reads.
FORBIDDEN = re.compile(r"\b(nobody|somebody|whoever|at hand)\b|'s way\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def schemas(pack):
    return {node.define_schema().node_id: node.define_schema() for node in pack.load("nodes").NODES}


def page(root, node_id, language):
    name = f"{node_id}.md" if language == "en" else f"{node_id}/{language}.md"
    return (root / "web" / "docs" / name).read_text(encoding="utf-8")


def rows(text):
    """The first row of a table that begins with each name: name -> its other columns."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            name, *columns = (part.strip() for part in line.strip("| \n").split(" | "))
            found.setdefault(name.strip("|").strip(), columns)
    return found


def translations(root, language):
    return json.loads((root / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["en", *TRANSLATIONS])
def test_help_pages_name_every_input_and_a_value_to_begin_with(root, schemas, language):
    for node_id, schema in schemas.items():
        described = rows(page(root, node_id, language))
        for declared in schema.inputs:
            assert declared.id in described, f"{node_id}: the help page ({language}) does not name {declared.id}"
            if declared.io_type in ("INT", "FLOAT"):
                columns = described[declared.id]
                assert len(columns) >= 2, f"{node_id}, {declared.id} ({language}): no value to begin with"
                assert re.search(r"\d", columns[1]), f"{node_id}, {declared.id} ({language}): no value to begin with"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_help_pages_have_the_numbers_of_the_english_page(root, schemas, language):
    for node_id in schemas:
        assert_numbers_are_translated(page(root, node_id, language), page(root, node_id, "en"), (node_id, language))


def test_help_pages_begin_with_the_display_name(root, schemas):
    for node_id, schema in schemas.items():
        title = page(root, node_id, "en").splitlines()[0].removeprefix("# ")
        assert schema.display_name.startswith(title.split(" (")[0]), node_id


@pytest.mark.parametrize("word", SEARCH_WORDS)
def test_display_names_hold_what_people_search_for(schemas, word):
    # Hosts before January 2026 know no search_aliases: there the display name is all that is searched.
    assert any(word in schema.display_name.lower() for schema in schemas.values())


def test_number_inputs_have_a_value_to_begin_with_in_their_tooltip(schemas):
    for node_id, schema in schemas.items():
        for declared in schema.inputs:
            assert declared.tooltip, (node_id, declared.id)
            if declared.io_type in ("INT", "FLOAT"):
                assert re.search(r"Start with -?\d", declared.tooltip), (node_id, declared.id)


def assert_numbers_are_translated(translated, english, where):
    """All numbers of the English text are there, and no other ones except counting words: *one code* is 1 コード."""
    found, expected = (set(NUMBER.findall(text)) for text in (translated, english))
    assert expected <= found, where
    assert all(len(number) == 1 for number in found - expected), where


def test_locales_are_those_of_the_schemas(root, schemas):
    english = translations(root, "en")
    assert set(english) == set(schemas), "run scripts/make_locales.py and translate"
    for node_id, schema in schemas.items():
        entry = english[node_id]
        assert entry["display_name"] == schema.display_name, "run scripts/make_locales.py"
        assert entry["description"] == schema.description, "run scripts/make_locales.py"
        tooltips = {declared.id: declared.tooltip for declared in schema.inputs}
        assert {name: text["tooltip"] for name, text in entry["inputs"].items()} == tooltips, node_id


def test_every_language_is_tested(root):
    assert {path.name for path in (root / "locales").iterdir()} == {"en", *TRANSLATIONS}


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_are_whole(root, language):
    english, translated = (translations(root, name) for name in ("en", language))
    assert set(translated) == set(english), "translate"
    for node_id, entry in english.items():
        ours = translated[node_id]
        assert all((ours["display_name"], ours["description"])), node_id
        for group in ("inputs", "outputs"):
            assert set(ours.get(group, {})) == set(entry[group]), f"{node_id} ({language}): translate the {group}"
            for name, text in entry[group].items():
                where = f"{node_id}, {name} ({language})"
                assert all((ours[group][name]["name"], ours[group][name]["tooltip"])), where
                assert_numbers_are_translated(ours[group][name]["tooltip"], text["tooltip"], where)


def test_the_edit_panel_has_every_text_in_every_language(root):
    source = (root / "web" / "js" / "edit_panel.js").read_text(encoding="utf-8")
    table = source.partition("const TEXTS = {")[2].partition("\n};")[0]
    texts = {
        language: dict(re.findall(r'\b(\w+): "((?:[^"\\]|\\.)+)"', block))
        for language, block in re.findall(r"\n  (\w\w): \{(.*?)\n  \}", table, re.DOTALL)
    }
    assert set(texts) == {"en", *TRANSLATIONS}
    for language in TRANSLATIONS:
        assert set(texts[language]) == set(texts["en"]), language
    used = set(re.findall(r"(?:text|button|say)\(\"(\w+)\"", source + (root / "web/js/style_edit.js").read_text()))
    assert used <= set(texts["en"])


def test_texts_for_users_are_plain_english(root, schemas):
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "web" / "docs").glob("*.md")}
    texts |= {node_id: json.dumps(entry) for node_id, entry in translations(root, "en").items()}
    texts |= {path: path.read_text(encoding="utf-8") for path in (root / "workflows").glob("*.json")}
    texts["README"] = (root / "README.md").read_text(encoding="utf-8")
    found = {str(name): match[0] for name, text in texts.items() if (match := FORBIDDEN.search(text))}
    assert not found
