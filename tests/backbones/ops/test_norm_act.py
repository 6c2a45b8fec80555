"""LayerNorm and activation as one operator equal the two modules, and keep one map."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from backbones.ops import gated_cnn_tiled as module
from backbones.ops.norm_act import norm_act
from tests.backbones.conftest import distance, noisy


def run(function, x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, list[Tensor], list[int]]:
    """The result, the gradients of the input and of the parameters, and the sizes of the maps that are kept."""
    norm, x, sizes = copy.deepcopy(norm), x.clone().requires_grad_(), []
    with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        y = function(x, norm)
    torch.manual_seed(1)
    (y * torch.randn(y.shape, dtype=y.dtype)).sum().backward()
    return y, [x.grad, *(p.grad for p in norm.parameters())], [size for size in sizes if size >= x.numel()]


@pytest.mark.parametrize('act', [nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize('layout', ['contiguous', 'transposed'])
def test_results_and_gradients_equal_the_modules_and_one_map_is_kept(act, layout, monkeypatch):
    monkeypatch.setattr(module, 'CACHE_BYTES', 8 * 6 * 7)  # 6 tiles, the last with fewer rows
    norm = noisy(nn.LayerNorm(6, eps=1e-3).double())
    x = torch.randn(2, 6, 4, 5).double().permute(0, 2, 3, 1)
    x = x.contiguous() if layout == 'contiguous' else x
    y, gradients, kept = run(lambda x, norm: norm_act(x, norm, act), x, norm)
    expected, expected_gradients, expected_kept = run(lambda x, norm: act(norm(x)), x, norm)
    torch.testing.assert_close(y, expected)
    for gradient, twin in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, twin)
    assert kept == [x.numel()] and expected_kept == [x.numel()] * 2


def test_inputs_in_half_precision_are_computed_in_the_dtype_of_the_weights():
    norm, act = noisy(nn.LayerNorm(32)), nn.GELU()
    x = torch.randn(4, 5, 32).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        y, gradients, _ = run(lambda x, norm: norm_act(x, norm, act), x, norm)
    expected, expected_gradients, _ = run(lambda x, norm: act(norm(x.float())).bfloat16(), x, norm)
    assert y.dtype is torch.bfloat16 and [g.dtype for g in gradients] == [torch.bfloat16, torch.float, torch.float]
    assert torch.equal(y, expected)
    for gradient, twin in zip(gradients, expected_gradients, strict=True):
        assert distance(gradient, twin) < 1e-2


def test_an_empty_batch_gives_zero_gradients():
    y, gradients, _ = run(lambda x, norm: norm_act(x, norm, nn.SiLU()), torch.randn(0, 3, 8), nn.LayerNorm(8))
    assert y.shape == (0, 3, 8) and not any(gradient.any() for gradient in gradients)
