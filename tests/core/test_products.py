"""Matrix products on the CPU: what torch's give, in every type, with gradients and compiled."""

from __future__ import annotations

import pytest
import torch

from pidiff_core.products import linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference"])
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_products_are_torchs(dtype, transposed, inference):
    torch.manual_seed(0)
    x = torch.randn(7, 30).to(dtype)
    weight = torch.randn(30, 5).to(dtype).T if transposed else torch.randn(5, 30).to(dtype)
    with torch.inference_mode(inference):
        torch.testing.assert_close(linear(x, weight), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("of", ["x", "weight"])
def test_gradients_flow(of):
    torch.manual_seed(0)
    x, weight = torch.randn(7, 30, requires_grad=of == "x"), torch.randn(5, 30, requires_grad=of == "weight")
    linear(x, weight).sum().backward()
    expected = weight.sum(dim=0).expand(7, -1) if of == "x" else x.sum(dim=0).expand(5, -1)
    torch.testing.assert_close((x if of == "x" else weight).grad, expected)


def test_forward_derivatives_flow():
    torch.manual_seed(0)
    x, weight = torch.randn(7, 30), torch.randn(5, 30)
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: linear(x, weight), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, weight.sum(dim=1).expand(7, -1))


def test_it_is_compiled_without_breaks():
    torch.manual_seed(0)
    x, weight = torch.randn(7, 30), torch.randn(5, 30)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), torch.nn.functional.linear(x, weight))
