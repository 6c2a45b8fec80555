"""What several backbones share: RMSNorm, and the strides of backbones of one width."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from timm.layers import PatchEmbed
from torch import nn

from backbones import UserError
from backbones.base import IsotropicBackbone, RMSNorm
from tests.backbones.conftest import noisy


def test_rms_norm_divides_by_the_root_mean_square():
    norm, x = noisy(RMSNorm(8)).double(), torch.randn(2, 3, 8).double()
    expected = [[cell / (cell.square().mean() + 1e-5).sqrt() * norm.weight for cell in row] for row in x]
    torch.testing.assert_close(norm(x), torch.stack([torch.stack(row) for row in expected]))
    assert [name for name, _ in norm.named_parameters()] == ['weight']


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_rms_norm_sums_in_fp32_under_autocast(dtype):
    norm, x = RMSNorm(512), torch.full((1, 512), 300.0)  # the squares overflow fp16
    with torch.autocast('cpu', dtype):
        y = norm(x.to(dtype))
    torch.testing.assert_close(y, torch.ones(1, 512))


def test_rms_norm_is_exempt_from_weight_decay_like_other_norms():
    model = nn.Sequential(RMSNorm(8), nn.Linear(8, 8))
    optimizer = dict(type='AdamW', lr=1.0, weight_decay=0.05)
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, paramwise_cfg=dict(norm_decay_mult=0.0)))
    decays = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    assert [decays[id(p)] for p in model.parameters()] == [0.0, 0.05, 0.05]


def isotropic(**arguments: object) -> IsotropicBackbone:
    """A backbone of patches and their positions, without a mixer."""
    patches = PatchEmbed(None, 16, 3, 8, output_fmt='NHWC', dynamic_img_pad=True)
    return IsotropicBackbone(patches, [nn.Identity()] * 4, 8, 16, 14, **arguments)


def test_maps_of_one_width_can_all_have_the_stride_of_the_patches():
    model, image = noisy(isotropic(strides=(16, 16, 16, 16))), torch.randn(1, 3, 40, 64)
    assert not list(model.rescale.parameters()) and list(isotropic().rescale.parameters())
    assert [tuple(m.shape) for m in model(image)] == [(1, 8, 3, 4)] * 4
    cells = model.patch_embed(image) + model._positions(3, 4)
    torch.testing.assert_close(model(image)[3], model.out_norms['3'](cells).permute(0, 3, 1, 2))
    assert [tuple(m.shape[2:]) for m in isotropic()(image)] == [(10, 16), (5, 8), (3, 4), (2, 2)]


@pytest.mark.parametrize('strides', [(4, 8, 16), (4, 8, 16, 64), 16])
def test_other_strides_are_refused(strides):
    with pytest.raises(UserError, match=r'strides=.* must be 4 numbers, each one of 4, 8, 16, 32'):
        isotropic(strides=strides)
