"""Editing: directions by level, mixing, files of directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pidiff_core.errors import PIDiffError
from pidiff_core.wplus.codes import WPlus, WPlusSpace
from pidiff_core.wplus.direction_files import find_direction, load_directions
from pidiff_core.wplus.directions import Direction, apply_direction, mix_levels

SPACE = WPlusSpace("test", 10, 8)
AVERAGE = torch.zeros(10, 8)


def person(batch=1, seed=0, space=SPACE):
    return WPlus(torch.randn(batch, 10, 8, generator=torch.Generator().manual_seed(seed)), AVERAGE, space, f"p{seed}")


@pytest.mark.parametrize(
    "vector", [torch.ones(10, 8), torch.ones(1, 8), torch.ones(1, 10, 8), torch.ones(10, 8).double()]
)
def test_a_direction_moves_the_codes(vector):
    edited = apply_direction(person(2), Direction("age", vector), amount=-2.0)
    torch.testing.assert_close(edited.codes, person(2).codes - 2.0)
    assert "age" in edited.source


@pytest.mark.parametrize(
    ("levels", "moved"), [(["coarse"], [0, 1]), (["medium"], [2, 3]), (["fine"], [4, 5, 6, 7, 8, 9]), ([], [])]
)
def test_only_the_chosen_levels_move(levels, moved):
    change = (
        apply_direction(person(), Direction("age", torch.ones(1, 8)), amount=1.0, levels=levels).codes - person().codes
    )
    assert [style for style in range(10) if change[0, style].abs().sum() > 0] == moved


def test_amount_zero_gives_the_same_bits():
    edited = apply_direction(person(), Direction("age", torch.randn(10, 8)), amount=0.0)
    assert torch.equal(edited.codes, person().codes)


def test_there_and_back_again():
    direction = Direction("age", torch.randn(10, 8))
    back = apply_direction(apply_direction(person(), direction, amount=3.0), direction, amount=-3.0)
    torch.testing.assert_close(back.codes, person().codes)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (Direction("age", torch.ones(18, 8)), r"shape \(18, 8\).*\(10, 8\) or \(1, 8\)"),
        (Direction("age", torch.ones(1, 512)), r"\(1, 512\)"),
        (Direction("age", torch.ones(1, 8), WPlusSpace("other", 10, 8)), "belongs to other"),
    ],
)
def test_directions_of_another_space_are_refused(direction, message):
    with pytest.raises(PIDiffError, match=message):
        apply_direction(person(), direction, amount=1.0)


@pytest.mark.parametrize("vector", [torch.ones(8), torch.ones(2, 10, 8), torch.full((1, 8), torch.nan)])
def test_what_is_no_direction_is_refused(vector):
    with pytest.raises(PIDiffError, match="'age'"):
        Direction("age", vector)


def test_an_unknown_level_is_refused():
    with pytest.raises(PIDiffError, match="rough"):
        apply_direction(person(), Direction("age", torch.ones(1, 8)), amount=1.0, levels=["rough"])


@pytest.mark.parametrize(("levels", "part"), [(["coarse"], slice(0, 2)), (["medium", "fine"], slice(2, 10))])
def test_mixing_takes_whole_levels_of_the_other_person(levels, part):
    mixed = mix_levels(person(), person(seed=1), levels=levels)
    expected = person().codes.clone()
    expected[:, part] = person(seed=1).codes[:, part]
    assert torch.equal(mixed.codes, expected)


def test_mixing_may_blend_and_one_other_serves_a_batch():
    mixed = mix_levels(person(3), person(seed=1), levels=["coarse", "medium", "fine"], amount=0.25)
    torch.testing.assert_close(mixed.codes, 0.75 * person(3).codes + 0.25 * person(seed=1).codes)
    with pytest.raises(PIDiffError, match="3 people cannot be mixed with 2"):
        mix_levels(person(3), person(2), levels=["fine"])


def test_mixing_two_spaces_is_refused():
    with pytest.raises(PIDiffError, match="two spaces"):
        mix_levels(person(), person(space=WPlusSpace("other", 10, 8)), levels=["fine"])


def pca():
    random = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    comp = torch.linalg.qr(random[:8]).Q[:3, None]
    return {"mean": random[8:], "comp": comp, "std": torch.tensor([3.0, 2.0, 0.5])}


def coordinates(codes, component):
    """Of every style, along a component of `pca`, in standard deviations."""
    return (codes - pca()["mean"]) @ pca()["comp"][component, 0] / pca()["std"][component]


class TestFiles:
    def test_arrays_and_tensors_are_one_direction(self, tmp_path):
        np.save(tmp_path / "age.npy", np.ones((10, 8)))
        torch.save(torch.ones(1, 8), tmp_path / "smile.pt")
        assert load_directions(tmp_path / "age.npy")["age.npy"].vector.shape == (10, 8)
        assert load_directions(tmp_path / "smile.pt")["smile.pt"].vector.shape == (1, 8)

    def test_lists_are_numbered(self, tmp_path):
        torch.save([torch.full((1, 10, 8), float(i)) for i in range(3)], tmp_path / "many.pth")
        found = load_directions(tmp_path / "many.pth")
        assert list(found) == ["many.pth:0", "many.pth:1", "many.pth:2"]
        assert found["many.pth:2"].vector.mean() == 2.0

    def test_a_step_along_a_component_is_one_standard_deviation(self, tmp_path):
        torch.save(pca(), tmp_path / "ffhq_pca.pt")
        found = list(load_directions(tmp_path / "ffhq_pca.pt").values())
        torch.testing.assert_close(found[1].vector, pca()["comp"][1] * 2.0)

    @pytest.fixture
    def edits(self, tmp_path):
        torch.save(pca(), tmp_path / "ffhq_pca.pt")
        (tmp_path / "edits.csv").write_text("curly hair\t2\t3\t5\t-4\r\nsmile\t0\t0\t10\t1\r\n")
        return load_directions(tmp_path / "edits.csv")

    def test_a_table_names_edits_of_some_styles(self, edits):
        assert list(edits) == ["curly hair", "smile"]
        change = apply_direction(person(2), edits["curly hair"], amount=1.0).codes - person(2).codes
        assert [style for style in range(10) if change[:, style].any()] == [3, 4]

    def test_an_edit_of_a_table_is_a_place_as_published(self, edits):
        people = person(2)
        edited = apply_direction(people, edits["smile"], amount=1.0).codes
        torch.testing.assert_close(coordinates(edited[:, 0], 0), torch.ones(2))  # the table's strength
        for other in (1, 2):
            torch.testing.assert_close(coordinates(edited, other), coordinates(people.codes, other))
        # encoder4editing's arithmetic: what the first style lacks is added to every style in the range.
        lacking = -4 - coordinates(people.codes[:, 0], 2)
        expected = people.codes.clone()
        expected[:, 3:5] += (lacking[:, None] * pca()["comp"][2] * 0.5)[:, None]
        torch.testing.assert_close(apply_direction(people, edits["curly hair"], amount=1.0).codes, expected)

    def test_a_part_of_the_way_to_a_place(self, edits):
        start = coordinates(person().codes[:, 0], 0)
        for amount in (0.0, 0.5, -1.0):
            edited = apply_direction(person(), edits["smile"], amount=amount).codes
            torch.testing.assert_close(coordinates(edited[:, 0], 0), start + amount * (1 - start))
        assert torch.equal(apply_direction(person(), edits["smile"], amount=0.0).codes, person().codes)
        there = apply_direction(person(), edits["smile"], amount=1.0)
        again = apply_direction(there, edits["smile"], amount=1.0)
        torch.testing.assert_close(again.codes, there.codes)

    @pytest.mark.parametrize("row", ["curly\t9\t0\t1\t1", "curly\t0\t1", "curly 0 0 1 1", "curly\ta\t0\t1\t1"])
    def test_a_wrong_row_is_named(self, tmp_path, row):
        torch.save(pca(), tmp_path / "ffhq_pca.pt")
        (tmp_path / "edits.csv").write_text(f"smile\t0\t0\t10\t1\n{row}\n")
        with pytest.raises(PIDiffError, match="Line 2"):
            load_directions(tmp_path / "edits.csv")

    @pytest.mark.parametrize("missing", ["mean", "comp", "std"])
    def test_components_that_are_not_whole_are_refused(self, tmp_path, missing):
        torch.save({key: value for key, value in pca().items() if key != missing}, tmp_path / "ffhq_pca.pt")
        (tmp_path / "edits.csv").write_text("smile\t0\t0\t10\t1\n")
        for name in ("ffhq_pca.pt", "edits.csv"):
            with pytest.raises(PIDiffError, match=r"ffhq_pca\.pt should hold.*mean, comp and std"):
                load_directions(tmp_path / name)

    @pytest.mark.parametrize(
        "content", [[], ["a"], {"weight": torch.ones(1, 8)}, "text", torch.ones(1, 8, dtype=torch.int64)]
    )
    def test_what_is_no_direction_is_refused(self, tmp_path, content):
        torch.save(content, tmp_path / "age.pt")
        with pytest.raises(PIDiffError, match=r"age\.pt"):
            load_directions(tmp_path / "age.pt")

    def test_real_directions_are_read(self, reference_dir):
        found = {}
        for path in sorted((reference_dir / "directions").iterdir()):
            found |= load_directions(path)
        assert found["age.npy"].vector.shape == (18, 512)
        assert found["age.pt"].vector.shape == (1, 512)
        assert found["att_direction_scale.pth:16"].vector.shape == (18, 512)
        assert {"frizzy_hair", "ffhq_pca.pt:79"} <= set(found)


class TestFinding:
    @pytest.fixture
    def folder(self, tmp_path):
        torch.save([torch.ones(1, 8), torch.ones(1, 8) * 2], tmp_path / "two.pt")
        torch.save(pca(), tmp_path / "ffhq_pca.pt")
        (tmp_path / "edits.csv").write_text("smile\t0\t0\t10\t1\n")
        return tmp_path

    def find(self, folder, name, own=None):
        def find_file(file):
            return str(folder / file) if (folder / file).is_file() else None

        return find_direction(
            name, own=own or {}, space=SPACE, find_file=find_file, known=["two.pt"], searched=["here"]
        )

    def test_the_models_own_come_first(self, folder):
        found = self.find(folder, "two.pt", own={"two.pt": torch.zeros(1, 8)})
        assert found.vector.sum() == 0
        assert found.space == SPACE

    @pytest.mark.parametrize(("name", "total"), [("two.pt", 8.0), ("two.pt:1", 16.0), ("edits.csv:smile", None)])
    def test_files_are_found_by_name_and_part(self, folder, name, total):
        found = self.find(folder, name)
        assert total is None or found.vector.sum() == total

    @pytest.mark.parametrize(
        ("name", "message"),
        [("age", "no direction 'age'.*beard, two.pt.*here"), ("two.pt:2", "no direction '2'"), ("two.pt:x", "'x'")],
    )
    def test_an_unknown_name_lists_what_there_is(self, folder, name, message):
        with pytest.raises(PIDiffError, match=message):
            self.find(folder, name, own={"beard": torch.zeros(1, 8)})


PLAIN_TABLE = "eye_openness\t2\t0\t2\t20\nSmile\t0\t4\t5\t-20.5\nGrößere Augen\t1\t7\t8\t25\n"


@pytest.fixture
def components(tmp_path):
    rng = torch.Generator().manual_seed(0)
    content = {
        "mean": torch.randn(1, 8, generator=rng),
        "comp": torch.randn(3, 1, 8, generator=rng),
        "std": torch.ones(3),
    }
    torch.save(content, tmp_path / "ffhq_pca.pt")


@pytest.mark.parametrize(
    "data",
    [
        PLAIN_TABLE.encode("utf-8-sig"),
        PLAIN_TABLE.replace("\n", "\r\n").encode(),
        PLAIN_TABLE.encode("cp1252"),
        PLAIN_TABLE.encode("utf-16"),
        PLAIN_TABLE.replace(".", ",").encode(),
        PLAIN_TABLE.replace("\t", ";").replace(".", ",").encode("utf-8-sig"),
        PLAIN_TABLE.replace("\t", ",").encode(),
        "".join('"' + line.replace("\t", '","') + '"\n' for line in PLAIN_TABLE.splitlines()).encode(),
        ("name;component;first;last;strength\n" + PLAIN_TABLE.replace("\t", ";")).encode(),
        PLAIN_TABLE.replace("\t", ";").replace("\n", ";;\n").encode() + b";;;;;;\n",
    ],
    ids=["BOM", "CRLF", "cp1252", "UTF-16", "decimal commas", "semicolons", "commas", "quotes", "headings", "columns"],
)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, components, data):
    (tmp_path / "plain.csv").write_bytes(PLAIN_TABLE.encode())
    (tmp_path / "table.csv").write_bytes(data)
    expected, found = (load_directions(tmp_path / name) for name in ("plain.csv", "table.csv"))
    assert list(found) == list(expected) == ["eye_openness", "Smile", "Größere Augen"]
    for name, direction in expected.items():
        assert found[name].styles == direction.styles
        assert found[name].goal.coordinate == direction.goal.coordinate
        assert torch.equal(found[name].vector, direction.vector)
    assert found["Smile"].goal.coordinate == -20.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\t3\t0\t8\t1", r"Line 1 .*component from 0 to 2"),
        ("a\t-1\t0\t8\t1", "Line 1"),
        ("a\t1\t0\t8\tnan", "Line 1"),
        ("a\t1\t5\t2\t1", "Line 1"),
        ("a,1,0,8,20,5", "Line 1"),
        ("a\t1\t0", "Line 1"),
        ("", "has no lines"),
        ("a" * 2_000_000, "larger than"),
    ],
)
def test_lines_that_make_no_sense_are_named(tmp_path, components, text, message):
    (tmp_path / "table.csv").write_text(text + "\n" if text else "\n")
    with pytest.raises(PIDiffError, match=message) as caught:
        load_directions(tmp_path / "table.csv")
    assert len(str(caught.value)) < 600
