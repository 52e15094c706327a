"""PIDiffLikeness in ComfyUI: order, gate and what it shows."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def likeness(comfy, pack, photo):
    node = pack.load("nodes.likeness").LikenessNode
    image = pack.load("pidiff_core.images").load_image(photo)[:, :256, 96:352]
    pictures = torch.cat([torch.zeros_like(image), image * 0.7, image])

    def run(**options):
        chosen = {"recogniser": "dlib", "keep_above": 0.0, "none_left": "error"} | options
        return node.execute(pictures, image, **chosen)

    return run, pictures


def test_the_best_comes_first_with_labels_and_a_preview(likeness):
    run, pictures = likeness
    output = run()
    kept, labelled, report, best = output.result
    assert torch.equal(kept, pictures[[2, 1, 0]])
    assert torch.equal(labelled[:, :200], kept[:, :200])
    assert not torch.equal(labelled, kept)
    assert best == pytest.approx(100.0)
    assert report.splitlines()[0].startswith("dlib, 1 photo")
    assert report.splitlines()[-1] == "picture 0: no face"
    assert len(output.ui["images"]) == 3
    assert output.ui["text"] == (report,)


@pytest.mark.slow
def test_the_gate(likeness, pack):
    run, pictures = likeness
    assert torch.equal(run(keep_above=99.0).result[0], pictures[[2]])
    error = pack.load("pidiff_core.errors").PIDiffError
    node = pack.load("nodes.likeness").LikenessNode
    dark = {"images": pictures[:1], "reference": pictures[2:], "recogniser": "auto", "keep_above": 50.0}
    with pytest.raises(error, match=r"No picture has a likeness of 50 %: the best of 1 has no face \(dlib\)"):
        node.execute(**dark, none_left="error")
    kept, _, _, best = node.execute(**dark, none_left="best one").result
    assert torch.equal(kept, pictures[:1])
    assert best == 0.0
    with pytest.raises(error, match="none_left should be one of"):
        run(none_left="nothing")
