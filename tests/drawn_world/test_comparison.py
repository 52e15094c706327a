"""The compared recipes: adapters of one size, and the parts that each of them leaves out."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="training is the optional extra `train`")
pytest.importorskip("accelerate", reason="training is the optional extra `train`")

from drawn_world.comparison import RECIPES, FourTokens, _built, _parameters, recipe_adapter
from drawn_world.portraits import SPACE
from pidiff_core.training.bases.load import load_base
from pidiff_core.training.strategy import IdentityTraining, StrategyConfig


class Spread:
    """What `recipe_adapter` reads of the data."""

    code_std = torch.linspace(0.5, 2.0, SPACE.num_styles * SPACE.width).view(SPACE.num_styles, SPACE.width)


@pytest.fixture(scope="module")
def base():
    return load_base("mini")


@pytest.fixture(scope="module")
def parameters(base) -> int:
    """Of the first recipe's adapter."""
    return _parameters(_built(base, RECIPES[0], hidden=128))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_has_the_same_number_of_parameters(base, parameters, recipe):
    adapter = recipe_adapter(base, Spread(), recipe, seed=0)
    assert _parameters(adapter) == pytest.approx(parameters, rel=0.02)
    assert torch.equal(adapter.projection.code_std, Spread.code_std)
    tokens = adapter.projection(torch.randn(2, SPACE.num_styles, SPACE.width))
    assert tokens.shape[1] == (SPACE.num_styles if recipe.tokens == "styles" else 4)
    branches = list(adapter.sites.values())
    assert all((branch.null_key is not None) == recipe.null_key for branch in branches)
    assert all((branch.to_q is not None) == (recipe.query == "text") for branch in branches)


def test_recipes_have_names_of_their_own():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) == 11


def test_pooled_tokens_do_not_know_the_order_of_the_styles():
    codes = torch.randn(1, SPACE.num_styles, SPACE.width)
    pooled, groups = (FourTokens(pooled=pooled, hidden=16, token_width=24) for pooled in (True, False))
    torch.testing.assert_close(pooled(codes), pooled(codes.flip(1)), atol=1e-5, rtol=1e-4)
    assert (groups(codes) - groups(codes.flip(1))).abs().max() > 0.1


@pytest.mark.parametrize(("one_stage", "trained"), [(False, False), (True, True)])
def test_the_projection_trains_while_localising_only_if_asked(base, one_stage, trained):
    adapter = _built(base, RECIPES[0], hidden=16)
    config = StrategyConfig(train_projection=one_stage)
    module = IdentityTraining(
        base.unet,
        adapter,
        stage="localise",
        config=config,
        prediction=base.prediction,
        alphas_cumprod=base.alphas_cumprod,
    )
    module.binding.detach()
    assert all(parameter.requires_grad == trained for parameter in adapter.projection.parameters())
    assert all(parameter.requires_grad for parameter in adapter.sites.parameters())
