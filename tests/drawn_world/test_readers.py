"""The readers of exact labels: what they look at, what they are told, and that a short training teaches them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drawn_world.crops import CROP_PX
from drawn_world.data import World
from drawn_world.drawn_person import IDENTITY_TRAITS, TRAIT_INDEX, DrawnPerson
from drawn_world.head import CLOTHES_COLOURS
from drawn_world.readers import (
    MASK_CELLS,
    NUM_TRAIT_OUTPUTS,
    TRAIT_COLUMNS,
    HeadReader,
    Readers,
    SceneReader,
    TraitReader,
    chosen_traits,
    correlation,
    head_targets,
    linear_probe,
    read_crops,
    renderer_hash,
    scene_labels,
    softened,
    trait_targets,
)
from drawn_world.scene import CLOTHES, PLACES, Scene


def people(count: int) -> list[DrawnPerson]:
    rng = np.random.default_rng(0)
    return [DrawnPerson.sample(rng) for _ in range(count)]


def test_targets_are_numbers_and_the_values_places():
    person = people(1)[0].replace(beard="goatee", nose_width=0.25)
    row = trait_targets([person])[0]
    assert row[TRAIT_INDEX["beard"]] == 2
    assert row[TRAIT_INDEX["nose_width"]] == pytest.approx(-0.5)


def test_outputs_that_are_the_truth_read_as_the_truth():
    group = people(12)
    targets = trait_targets(group)
    outputs = torch.zeros(len(group), NUM_TRAIT_OUTPUTS)
    for index, trait in enumerate(IDENTITY_TRAITS):
        for row in range(len(group)):
            if trait.values:
                outputs[row, TRAIT_COLUMNS[trait.name].start + int(targets[row, index])] = 1
            else:
                outputs[row, TRAIT_COLUMNS[trait.name].start] = targets[row, index]
    assert torch.equal(chosen_traits(outputs), targets)


def test_a_linear_probe_reads_what_is_linear_and_nothing_from_noise():
    group = people(240)
    targets = trait_targets(group)
    beard, nose = TRAIT_INDEX["beard"], TRAIT_INDEX["nose_width"]
    rng = torch.Generator().manual_seed(0)
    one_hot = torch.nn.functional.one_hot(targets[:, beard].long(), 4).float()
    inputs = torch.cat([one_hot, targets[:, nose, None], torch.randn(240, 3, generator=rng)], dim=1)
    read = linear_probe(inputs, group, fitted=160)
    assert (read[:, beard] == targets[160:, beard]).all()
    assert correlation(read, targets[160:])[nose] > 0.99
    assert correlation(read, targets[160:])[TRAIT_INDEX["lip_fullness"]].abs() < 0.35


def test_correlation_of_what_does_not_vary_is_zero():
    truth = torch.arange(5.0)[:, None]
    assert correlation(torch.ones(5, 1), truth) == 0
    assert correlation(-truth, truth) == pytest.approx(-1)


def test_read_crops_are_white_outside_head_and_mask():
    dark = -torch.ones(1, 3, CROP_PX, CROP_PX)
    seen = read_crops(dark)
    assert (seen[..., :4, :4] == 1).all()
    assert (seen[..., CROP_PX // 2, CROP_PX // 2] == -1).all()
    assert (read_crops(dark, mask=torch.zeros(1, 1, CROP_PX, CROP_PX)) == 1).all()


def test_softened_pictures_stay_in_range_and_half_of_them_unchanged():
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    changed = (softened(images, rng=np.random.default_rng(2)) != images).flatten(1).any(dim=1)
    assert 0.35 < changed.float().mean() < 0.65
    assert softened(images, rng=np.random.default_rng(3)).abs().max() <= 1


def test_scene_labels_and_shapes():
    labels = scene_labels([Scene(place="city", clothes="white")])
    assert labels.tolist() == [[PLACES.index("city"), CLOTHES.index("white"), 0, 0]]
    logits, mask = SceneReader()(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 6 + 7 + 3 + 3)
    assert mask.shape == (2, MASK_CELLS, MASK_CELLS)
    assert TraitReader()(torch.zeros(2, 3, 64, 64)).shape == (2, NUM_TRAIT_OUTPUTS)


def test_head_targets_are_the_scenes_numbers_and_labels():
    numbers, labels = head_targets([Scene(yaw=-0.5, pitch=0.25, light=1.0, expression="surprised", medium="painting")])
    assert numbers.tolist() == [[-0.5, 0.25, 1.0]]
    assert labels.tolist() == [[2, 1]]


def test_attributes_are_named_numbers_and_probabilities():
    readers = Readers(TraitReader().eval(), SceneReader().eval(), HeadReader().eval())
    with torch.no_grad():
        for network in (readers.traits, readers.heads):
            network.head[2].weight.zero_()
            network.head[2].bias.zero_()
        readers.traits.head[2].bias[TRAIT_COLUMNS["nose_width"]] = 0.5
        readers.traits.head[2].bias[TRAIT_COLUMNS["beard"].start + 3] = 20.0
        readers.heads.head[2].bias[:5] = torch.tensor([-3.0, 0.0, 0.25, 0.0, 20.0])
    found = readers.read_attributes(torch.zeros(2, 3, CROP_PX, CROP_PX))
    assert list(found) == [*TRAIT_INDEX, "yaw", "pitch", "light", "expression", "medium"]
    assert found["nose_width"].tolist() == [[0.5], [0.5]]
    assert found["beard"][0].tolist() == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert found["hair_style"][0].tolist() == pytest.approx([1 / 8] * 8)
    assert [found[name][0].item() for name in ("yaw", "pitch", "light")] == [-3.0, 0.0, 0.25]
    assert found["expression"][0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert found["medium"][0].tolist() == pytest.approx([1 / 3] * 3)


def test_the_hash_changes_with_what_is_drawn_and_is_the_same_every_time(monkeypatch):
    before = renderer_hash()
    assert renderer_hash() == before
    for clothes in CLOTHES:
        monkeypatch.setitem(CLOTHES_COLOURS, clothes, (1, 2, 3))
    assert renderer_hash() != before


@pytest.mark.slow
def test_a_short_training_reads_glasses_and_places(tmp_path):
    pytest.importorskip("accelerate", reason="training is the optional extra `train`")
    pytest.importorskip("diffusers", reason="training is the optional extra `train`")
    from drawn_world.crops import labelled_crops
    from drawn_world.data import rendered
    from drawn_world.readers import trained_readers

    world = World(seed=41, people=600, scenes=1)
    readers = trained_readers(tmp_path, world=world, steps=120, batch_size=32)
    held = rendered(World(seed=42, people=100, scenes=1), tmp_path)
    indices = np.arange(100)
    crops = labelled_crops(held, indices, rng=np.random.default_rng(0), jitter=0.0)
    glasses = TRAIT_INDEX["glasses"]
    right = readers.read_traits(read_crops(crops[:, :3]))[:, glasses] == trait_targets(held.people)[:, glasses]
    assert right.float().mean() > 0.6  # chance: 0.34
    yaw = torch.tensor([[scene.yaw] for scene in held.scenes])
    assert correlation(readers.read_attributes(read_crops(crops[:, :3]))["yaw"], yaw) > 0.5
    labels, _ = readers.read_scenes(held.image_batch(indices))
    assert np.mean([label["place"] == scene.place for label, scene in zip(labels, held.scenes)]) > 0.3  # chance: 0.17
