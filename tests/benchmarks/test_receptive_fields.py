"""Receptive fields have the extent that the kernels, strides and masks of a model imply."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backbones import MambaOut, ViT
from backbones.errors import UserError
from benchmarks.receptive_fields import (
    radius,
    reach,
    reaches_all_borders,
    receptive_field,
    shares,
    square_images,
)

SMALL = dict(depths=(1, 1, 2), dims=(8, 16, 24))


def field_of(backbone: nn.Module, size: int, stride: int = 16, dtype: torch.dtype = torch.double) -> np.ndarray:
    torch.manual_seed(0)
    return receptive_field(backbone.to(dtype).eval(), [torch.rand(1, 3, size, size, dtype=dtype)], stride)


def test_convolutions_reach_as_far_as_their_kernels_and_strides_add_up_to():
    field = field_of(MambaOut(SMALL, out_indices=(0, 1, 2)), 320)
    # stem, 1 block at stride 4, downsampling, 1 block at stride 8, downsampling, 2 blocks at stride 16
    far = (1 + 2) + 4 * 3 + 4 + 8 * 3 + 8 + 2 * 16 * 3
    assert reach(field, 16) == dict(left=far, right=far, up=far, down=far) and far == 147
    assert not reaches_all_borders(field, 16)
    assert reaches_all_borders(field_of(MambaOut(SMALL, out_indices=(2,)), 256), 16)  # 128 pixels to each border
    field = field_of(MambaOut(SMALL, out_indices=(0, 1, 2)), 320, stride=8)
    assert reach(field, 8)['left'] == 3 + 12 + 4 + 24


def test_causal_attention_reaches_neither_to_the_right_nor_down():
    arch = dict(dim=16, depth=4, heads=2)
    causal = field_of(ViT(arch, causal=True), 96)
    assert reach(causal, 16) == dict(left=48, right=15, up=48, down=15) and not reaches_all_borders(causal, 16)
    assert causal[0, 95] > 0 and not causal[64:].any()  # the rows above the cell are seen to their end
    assert reaches_all_borders(field_of(ViT(arch), 96), 16)


def test_single_precision_misses_what_decays_below_its_least_number():
    class Decay(nn.Module):
        """The mean of each cell of 16x16 pixels and, times 1e-50, that of the whole image."""

        def forward(self, x):
            return (nn.functional.avg_pool2d(x, 16) + 1e-50 * x.mean((2, 3), keepdim=True),)

    assert reach(field_of(Decay(), 96, dtype=torch.float), 16) == dict(left=0, right=15, up=0, down=15)
    assert reaches_all_borders(field_of(Decay(), 96), 16)


def test_half_of_a_gradient_lies_within_the_distance_that_was_drawn():
    field = np.zeros((96, 96), np.float32)
    field[48, 48], field[48 + 30, 48 - 40] = 3, 1  # 30, 40: 50 pixels away
    within = shares(field, 16)
    assert (within[0], within[49], within[50]) == (0.75, 0.75, 1)
    assert (radius(within, 0.5), radius(within, 0.95)) == (0, 50)


def test_a_stride_without_a_map_and_a_gradient_of_nothing_are_refused():
    with pytest.raises(UserError, match='no feature map has stride 7: the strides are 16'):
        field_of(MambaOut(SMALL, out_indices=(2,)), 64, stride=7)

    class Constant(nn.Module):
        def forward(self, x):
            return (0 * nn.functional.avg_pool2d(x, 16),)

    with pytest.raises(UserError, match='zero everywhere or not finite'):
        field_of(Constant(), 64)


def test_an_image_fills_the_square_with_its_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    for name, drawn in (('wide.png', pixels), ('high.png', pixels.transpose(1, 0, 2))):
        Image.fromarray(drawn).save(tmp_path / name)
        (image,) = square_images([str(tmp_path / name)], 40)
        assert image.shape == (40, 40, 3) and (image[4:-4, 4:-4] == 255).all()
    Image.fromarray(pixels[:, ::2]).save(tmp_path / 'dark.png')
    (image,) = square_images([str(tmp_path / 'dark.png')], 41)
    assert image.shape == (41, 41, 3) and image.mean() < 250
