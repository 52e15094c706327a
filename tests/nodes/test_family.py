"""An adapter acts in models of the family that it was trained for, and in no other."""

from __future__ import annotations

import pytest

from tests.nodes.small_unets import Person, build

FAMILIES = {"SD 1.5": "sd15", "SD 1.5 inpainting": "sd15", "SD 2.1 v": "sd2", "SDXL": "sdxl", "SSD-1B": "sdxl"}


@pytest.mark.parametrize(("kind", "family"), FAMILIES.items())
def test_another_family_is_refused_with_both_names(comfy, pack, kind, family):
    model = build(kind)
    error = pack.load("pidiff_core.errors").PIDiffError
    names = pack.load("pidiff_core.adapter.config").FAMILIES
    Person(pack, model).on(model)  # an earlier file, which does not say
    Person(pack, model, family=family).on(model)
    other = next(name for name in names if name != family)
    with pytest.raises(error, match=rf"trained for {names[other]}, but the model is {names[family]}"):
        Person(pack, model, family=other).on(model)


def test_the_embedded_model_has_a_family_of_its_own(mini):
    sites = mini.pack.load("nodes.unet.sites")
    assert sites.model_family(mini.model) == "mini"
