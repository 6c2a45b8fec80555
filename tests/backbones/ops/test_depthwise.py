"""The gradients of a depthwise convolution equal those that autograd finds."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.ops import depthwise


def gradients(grad: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of the input and of the weights as sums: each output cell reads a window of the padded input."""
    pad = weight.shape[-1] // 2
    windows = F.pad(x, (0, 0, pad, pad, pad, pad)).unfold(1, 2 * pad + 1, 1).unfold(2, 2 * pad + 1, 1)
    grad_weight = torch.einsum('bhwc,bhwcij->cij', grad, windows)[:, None]
    windows = F.pad(grad, (0, 0, pad, pad, pad, pad)).unfold(1, 2 * pad + 1, 1).unfold(2, 2 * pad + 1, 1)
    return [torch.einsum('cij,bhwcij->bhwc', weight[:, 0].flip(1, 2), windows), grad_weight]


@pytest.mark.parametrize('buffer_bytes', [2**22, 2**12], ids=['all channels at once', 'groups of channels'])
@pytest.mark.parametrize('small', [0, 2**30], ids=['in parts of three columns', 'in one call'])
@pytest.mark.parametrize('kernel', [3, 5, 7, 11])
@pytest.mark.parametrize('shape', [(2, 5, 4, 40), (1, 1, 9, 16), (3, 8, 1, 3)])
def test_the_gradients_are_the_sums_over_windows(shape, kernel, small, buffer_bytes, monkeypatch):
    monkeypatch.setattr(depthwise, 'SMALL', small)
    monkeypatch.setattr(depthwise, 'BUFFER_BYTES', buffer_bytes)
    torch.manual_seed(0)
    grad, x = torch.randn(2, *shape, dtype=torch.double)
    weight = torch.randn(shape[-1], 1, kernel, kernel, dtype=torch.double)
    for ours, expected in zip(depthwise.depthwise_backward(grad, x, weight), gradients(grad, x, weight), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_large_maps_are_computed_in_parts_and_small_ones_in_one_call(monkeypatch):
    calls = []

    def counted(*arguments: object) -> tuple[Tensor, Tensor]:
        calls.append(arguments)
        return original(*arguments)

    original = depthwise._convolution_backward
    monkeypatch.setattr(depthwise, '_convolution_backward', counted)
    weight = torch.randn(64, 1, 7, 7)
    for side, expected in ((4, 1), (32, 1 + 3)):
        calls.clear()
        depthwise.depthwise_backward(*torch.randn(2, 1, side, side, 64), weight)
        assert len(calls) == expected
