"""ViT equals timm's model and plain loops. Tests for all backbones are in ``test_backbones.py``."""

import math

import pytest
import safetensors.torch
import timm
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from backbones import UserError, ViT
from backbones.base import STRIDES, rescaling
from backbones.vit import Arch, TransformerBlock
from tests.backbones.conftest import backward, distance, noisy

TINY = dict(dim=16, depth=4, heads=2)


def without_class_token(name: str, **arguments: object) -> nn.Module:
    """timm's model without a class token."""
    patches = dict(class_token=False, global_pool='avg', fc_norm=False, num_classes=0)
    return timm.create_model(name, **patches, dynamic_img_size=True, dynamic_img_pad=True, **arguments)


@pytest.mark.parametrize(
    ('arch', 'size', 'causal'),
    [
        ('small', (224, 224), False),
        ('small', (224, 224), True),
        ('small', (333, 500), False),
        ('base', (97, 160), True),
    ],
)
def test_maps_and_gradients_equal_those_of_timms_tokens(arch, size, causal):
    ours = noisy(ViT(arch, causal, out_norm=False))
    twin = without_class_token(f'vit_{arch}_patch16_224')
    state = {name: value for name, value in ours.state_dict().items() if not name.startswith('rescale.')}
    assert twin.load_state_dict(state, strict=False).missing_keys == ['norm.weight', 'norm.bias']
    image = torch.randn(1, 3, *size)
    maps = ours(image)
    backward(maps)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    tokens = twin.forward_intermediates(image, [2, 5, 8, 11], intermediates_only=True, is_causal=causal)
    rescaled = [ours.rescale[str(i)](x) for i, x in enumerate(tokens)]
    expected = [x[..., : m.shape[2], : m.shape[3]] for x, m in zip(rescaled, maps, strict=True)]
    for a, b in zip(maps, expected, strict=True):
        assert distance(a, b) < 1e-5
    backward(expected)
    for name, parameter in [*ours.rescale.named_parameters('rescale'), *twin.named_parameters()]:
        if not name.startswith('norm.'):
            assert distance(gradients[name], parameter.grad) < 1e-4, name


@pytest.mark.parametrize('causal', [False, True])
def test_a_block_equals_a_loop_over_tokens(causal):
    heads, height, width, dim = 2, 3, 5, 8
    block = noisy(TransformerBlock(Arch(dim, 4, heads), causal, 0.0)).double()
    cells = torch.randn(1, height, width, dim, dtype=torch.float64)

    x = cells.reshape(height * width, dim)  # row by row
    q, k, v = block.attn.qkv(block.norm1(x)).detach().view(-1, 3, heads, dim // heads).unbind(1)
    mixed = torch.zeros_like(v)
    for t in range(height * width):
        seen = range(t + 1) if causal else range(height * width)
        for head in range(heads):
            weights = [math.exp(q[t, head] @ k[i, head] / math.sqrt(dim // heads)) for i in seen]
            for i, weight in zip(seen, weights, strict=True):
                mixed[t, head] += weight / sum(weights) * v[i, head]
    x = x + block.attn.proj(mixed.flatten(1))
    x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(block(cells), x.view_as(cells), rtol=0, atol=1e-12)


@pytest.mark.parametrize('causal', [False, True])
def test_a_later_patch_changes_earlier_ones_unless_attention_is_causal(causal):
    model = noisy(ViT(TINY, causal, out_indices=(2,))).eval()
    image = torch.randn(1, 3, 48, 64)
    other = image.clone()
    other[:, :, 16:32, 32:48] += 1  # the patch in row 1, column 2 of 3 x 4: the 7th
    (a,), (b,) = model(image), model(other)
    moved = (a - b).abs().amax(dim=(0, 1)).flatten() > 1e-5
    assert moved.tolist() == [not causal] * 6 + [True] * 6


def test_the_residual_stream_stays_in_fp32_under_autocast():
    model, sums = ViT(TINY), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: sums.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.randn(1, 3, 32, 48))
    assert sums == [torch.float32] * 4


def enlarge(x: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """Turn each cell into four, with one matrix for each of them."""
    y = torch.einsum('bchw,cdij->bdhiwj', x, convolution.weight) + convolution.bias.view(-1, 1, 1, 1, 1)
    return y.flatten(4).flatten(2, 3)


@pytest.mark.parametrize(('patch_size', 'stride'), [(16, 4), (16, 8), (16, 16), (16, 32), (8, 32), (4, 4)])
def test_rescaling_uses_transposed_convolutions_and_max_pooling(patch_size, stride):
    x = torch.randn(2, 6, 5, 7)
    module = noisy(rescaling(6, patch_size, stride))
    expected = x
    if stride > patch_size:
        expected = F.max_pool2d(x, stride // patch_size, ceil_mode=True)
    elif stride < patch_size:
        expected = enlarge(x, module[0])
    if patch_size // stride == 4:
        norm = F.layer_norm(expected.permute(0, 2, 3, 1), (6,), module[1].weight, module[1].bias, eps=1e-6)
        expected = enlarge(F.gelu(norm.permute(0, 3, 1, 2)), module[3])
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize('patch_size', [4, 8, 32])
def test_other_patch_sizes_give_maps_at_the_same_strides(patch_size):
    maps = ViT(TINY | dict(patch_size=patch_size))(torch.randn(1, 3, 37, 66))
    assert [tuple(m.shape) for m in maps] == [(1, 16, -(-37 // s), -(-66 // s)) for s in STRIDES]


def test_attention_saves_no_matrix_of_all_pairs_of_patches():
    sizes = []
    with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        ViT(TINY)(torch.randn(1, 3, 1024, 1024))
        ViT(TINY, causal=True)(torch.randn(1, 3, 1024, 1024))
    assert max(sizes) < 4096**2 / 4


def load(path, arch: str = 'small', **arguments: object) -> ViT:
    model = ViT(arch, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **arguments)
    model.init_weights()
    return model


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('name', ['vit_small_patch16_224', 'deit_small_patch16_224'])
def test_published_weights_load_except_class_token_norm_and_head(name, causal, tmp_path):
    MMLogger.get_instance(f'{name}_{causal}', log_file=str(tmp_path / 'log'))
    published = timm.create_model(name).state_dict()
    safetensors.torch.save_file(published, tmp_path / 'model.safetensors')
    ours = load(tmp_path, causal=causal).state_dict()
    assert torch.equal(ours.pop('pos_embed'), published.pop('pos_embed')[:, 1:])
    taken = {name for name in ours if not name.startswith(('rescale.', 'out_norms.'))}
    assert all(torch.equal(ours[name], published.pop(name)) for name in taken)
    assert set(published) == {'cls_token', 'norm.weight', 'norm.bias', 'head.weight', 'head.bias'}
    said = (tmp_path / 'log').read_text()
    assert 'initialised: out_norms.*, rescale.*; not used: cls_token.*, head.*, norm.*' in said


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('vit_base_patch16_224', r'pos_embed is \(1, 196, 768\) instead of \(1, 196, 384\)'),
        ('vit_small_patch16_384', r'pos_embed is \(1, 576, 384\) instead of \(1, 196, 384\)'),
        ('deit_small_distilled_patch16_224', 'unexpected dist_token'),
        ('mambaout_femto', 'missing pos_embed.*of another size, number of classes or architecture'),
    ],
)
def test_weights_of_another_model_are_refused(name, message, tmp_path):
    torch.save(timm.create_model(name).state_dict(), path := tmp_path / 'model.pth')
    with pytest.raises(UserError, match=message):
        load(path)


def test_our_weights_load_with_all_of_their_rescaling_layers_or_are_refused(tmp_path):
    model = noisy(ViT(TINY))
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save(dict(state_dict=state | {'neck.weight': torch.ones(1)}, meta={}), path := tmp_path / 'detector.pth')
    for out_indices in ((0, 1, 2, 3), (1, 2)):
        part = load(path, TINY, out_indices=out_indices).state_dict()
        assert all(torch.equal(value, state[f'backbone.{name}']) for name, value in part.items())
    torch.save({k: v for k, v in state.items() if k != 'backbone.rescale.1.0.bias'}, path)
    with pytest.raises(UserError, match='missing rescale.1.0.bias'):
        load(path, TINY)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='vit_small'), "did you mean 'small'"),
        (dict(arch=dict(dim=16, depth=4)), "needs 'heads'"),
        (dict(arch=dict(dim=16, depth=4, heads=3)), 'dim=16 must be a multiple of heads=3'),
        (dict(arch=dict(dim=16, depth=3, heads=2)), 'depth=3 must be at least 4'),
        (dict(arch=TINY | dict(patch_size=0)), 'patch_size=0.* has a number below 1'),
        (dict(arch=TINY | dict(patch_size=14)), 'patch_size=14 must be one of 4, 8, 16, 32'),
    ],
)
def test_wrong_arguments_are_refused_with_advice(arguments, message):
    with pytest.raises(UserError, match=message):
        ViT(**arguments)
