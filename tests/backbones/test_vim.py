"""Vim equals a plain implementation with the official weights."""

import argparse
import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import UserError, Vim
from backbones.drop_path import DropPath
from backbones.vim import ARCHS, MambaBlock, our_names
from tests.backbones.conftest import backward, distance, noisy
from tests.backbones.test_s6 import s6_by_hand

DEPTH, STATE = 24, 16  # of all sizes
SIZES = dict(  # channels in the official repository, vim/models_mamba.py, and parameters of the released classifiers
    tiny=(192, 7_148_008), small=(384, 25_796_584), base=(768, 97_598_440)
)
SMALL = dict(dim=12, depth=5)


def official_shapes(dim: int, depth: int = DEPTH) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a released classifier."""
    rank, inner = math.ceil(dim / 16), 2 * dim
    shapes = {'cls_token': (1, 1, dim), 'pos_embed': (1, 14 * 14 + 1, dim)}
    shapes |= {'patch_embed.proj.weight': (dim, 3, 16, 16), 'patch_embed.proj.bias': (dim,)}
    for i in range(depth):
        mixer = f'layers.{i}.mixer'
        shapes |= {f'layers.{i}.norm.weight': (dim,), f'{mixer}.in_proj.weight': (2 * inner, dim)}
        for suffix, a_log in (('', 'A_log'), ('_b', 'A_b_log')):
            shapes |= {
                f'{mixer}.{a_log}': (inner, STATE),
                f'{mixer}.D{suffix}': (inner,),
                f'{mixer}.conv1d{suffix}.weight': (inner, 1, 4),
                f'{mixer}.conv1d{suffix}.bias': (inner,),
                f'{mixer}.x_proj{suffix}.weight': (rank + 2 * STATE, inner),
                f'{mixer}.dt_proj{suffix}.weight': (inner, rank),
                f'{mixer}.dt_proj{suffix}.bias': (inner,),
            }
        shapes[f'{mixer}.out_proj.weight'] = (dim, inner)
    return shapes | {'norm_f.weight': (dim,), 'head.weight': (1000, dim), 'head.bias': (1000,)}


def official_weights() -> dict[str, Tensor]:
    """Random weights with the official names and shapes, of the small architecture of these tests."""
    torch.manual_seed(0)
    weights = {}
    for name, shape in official_shapes(**SMALL).items():
        weights[name] = torch.randn(shape) / math.prod(shape[1:]) ** 0.5
        if '.dt_proj' in name and name.endswith('bias'):
            weights[name] -= 3  # small steps, so that states last
    return weights


def cells_by_hand(weights: dict[str, Tensor], image: Tensor, branch: bool) -> list[Tensor]:
    """Compute the cells ``(H, W, dim)`` after each quarter of the blocks from official weights, by the definition."""
    weights = {k: v.double() for k, v in weights.items()}

    def scan(u: Tensor, mixer: str, suffix: str) -> Tensor:
        kernel, bias = weights[f'{mixer}.conv1d{suffix}.weight'][:, 0], weights[f'{mixer}.conv1d{suffix}.bias']
        mixed = []
        for t in range(len(u)):
            seen = [kernel[:, 3 - past] * u[t - past] for past in range(4) if t >= past]
            mixed.append(F.silu(sum(seen) + bias))
        names = f'x_proj{suffix}.weight', f'dt_proj{suffix}.weight', f'dt_proj{suffix}.bias'
        names += 'A_b_log' if suffix else 'A_log', f'D{suffix}'
        return s6_by_hand(torch.stack(mixed), *(weights[f'{mixer}.{name}'] for name in names))

    def mix(x: Tensor, layer: str) -> Tensor:
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f'{layer}.norm.weight']
        u, z = (x @ weights[f'{layer}.mixer.in_proj.weight'].T).chunk(2, -1)
        forwards = scan(u, f'{layer}.mixer', '') * F.silu(z)
        backwards = (scan(u.flip(0), f'{layer}.mixer', '_b') * F.silu(z.flip(0))).flip(0)
        return (forwards + backwards) / 2 @ weights[f'{layer}.mixer.out_proj.weight'].T

    image = F.pad(image.double(), (0, -image.shape[2] % 16, 0, -image.shape[1] % 16))
    x = F.conv2d(image, weights['patch_embed.proj.weight'], weights['patch_embed.proj.bias'], stride=16)
    dim, height, width = x.shape
    places = [i for i in range(197) if i != 98]  # 98 patches before the class token and 98 after it
    positions = weights['pos_embed'][:, places].view(1, 14, 14, dim).permute(0, 3, 1, 2)
    x = x + F.interpolate(positions, (height, width), mode='bicubic')[0]
    x, maps = x.flatten(1).T, []
    for i in range(SMALL['depth']):
        y = mix(x, f'layers.{i}')
        x = x + y
        if i in (0, 1, 2, 4):  # the last blocks of quarters of 5 blocks
            maps.append((y if branch else x).view(height, width, dim))
    return maps


def loaded(weights: dict[str, Tensor], folder, **arguments: object) -> Vim:
    """A model with the weights of a file like the released ones, whose settings are a namespace of argparse."""
    content = dict(model=weights, args=argparse.Namespace(model='vim', lr=1e-3), epoch=299)
    torch.save(content, path := folder / 'vim.pth')
    model = Vim(SMALL, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **arguments)
    model.init_weights()
    noisy(model.rescale)
    return model


@pytest.mark.parametrize('residual', [True, False])
def test_maps_equal_the_definition_with_official_weights(residual, tmp_path):
    weights, image = official_weights(), torch.randn(3, 37, 59)
    model = loaded(weights, tmp_path, out_norm=False, use_residual_as_feature=residual).double()
    maps = model(image[None].double())
    expected = cells_by_hand(weights, image, branch=not residual)
    for i, (ours, cells) in enumerate(zip(maps, expected, strict=True)):
        rescaled = model.rescale[str(i)](cells.permute(2, 0, 1)[None])
        torch.testing.assert_close(ours, rescaled[:, :, : ours.shape[2], : ours.shape[3]])
    (other,) = cells_by_hand(weights, image, branch=residual)[2:3]
    assert distance(maps[2], other.permute(2, 0, 1)[None]) > 0.1


@pytest.mark.parametrize('name', ARCHS)
def test_official_weights_of_every_size_have_our_names_and_shapes_after_conversion(name):
    dim, parameters = SIZES[name]
    shapes = official_shapes(dim)
    assert sum(map(math.prod, shapes.values())) == parameters
    with torch.device('meta'):
        model = Vim(name, out_norm=False)
        found = model.convert_state_dict({k: torch.empty(shape) for k, shape in shapes.items()})
    own = {k: v.shape for k, v in model.state_dict().items() if not k.startswith('rescale.')}
    classifier = {'cls_token', 'norm_f.weight', 'head.weight', 'head.bias'}
    assert {k: v.shape for k, v in found.items() if k not in classifier} == own
    assert classifier < set(found) and all(k.startswith(model.allowed_unexpected_keys) for k in classifier)


def test_our_own_names_and_positions_stay_as_they_are():
    model = Vim(SMALL)
    state = model.state_dict()
    assert our_names(state) == state
    assert all(torch.equal(value, state[name]) for name, value in model.convert_state_dict(state).items())


@pytest.mark.parametrize(
    ('tokens', 'left_out'), [((), ()), (('cls_token',), (98,)), (('cls_token_head', 'cls_token_tail'), (0, 197))]
)
def test_the_positions_of_class_tokens_are_left_out(tokens, left_out):
    positions = torch.randn(1, 196 + len(tokens), 12)
    weights = {'pos_embed': positions} | {name: torch.zeros(1, 1, 12) for name in tokens}
    kept = [i for i in range(positions.shape[1]) if i not in left_out]
    assert len(kept) == 196
    assert torch.equal(Vim(SMALL).convert_state_dict(weights)['pos_embed'], positions[:, kept])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.mixer.A_b_log'), 'missing blocks.1.mixer.s6.1.A_log'),
        (lambda w: w.pop('pos_embed'), 'missing pos_embed'),
        (lambda w: w.update({'layers.1.mixer.in_proj.bias': torch.ones(48)}), 'unexpected blocks.1.mixer.in_proj.bias'),
        (lambda w: w.update({'layers.0.mixer.D_b': torch.ones(9)}), 's6.1.D is .9,. instead of .24,.'),
        # fine-tuned with a patch every 8 pixels
        (lambda w: w.update(pos_embed=torch.ones(1, 28 * 28 + 1, 12)), r'pos_embed is \(1, 784, 12\) instead of'),
        (lambda w: w.update({'rope.freqs_cos': torch.ones(196, 12)}), 'unexpected rope.freqs_cos'),
    ],
)
def test_one_wrong_tensor_is_refused_by_name(tmp_path, change, message):
    change(weights := official_weights())
    with pytest.raises(UserError, match=message):
        loaded(weights, tmp_path)


@pytest.mark.parametrize('direction', [0, 1])
def test_each_scan_sees_the_cells_on_its_side(direction):
    """Without the other scan, the patch in row 1, column 2 changes itself and the cells that are read after it."""
    model = noisy(Vim(SMALL, out_indices=(2,))).eval()
    for block in model.blocks:
        s6 = block.mixer.s6[1 - direction]
        s6.register_forward_hook(lambda module, inputs, output: 0 * output)
    image = torch.randn(1, 3, 48, 64)
    other = image.clone()
    other[:, :, 16:32, 32:48] += 1  # the 7th of 12
    moved = ((model(image)[0] - model(other)[0]).abs().amax(dim=(0, 1)) > 1e-6).flatten()
    assert moved.tolist() == ([True] * 7 + [False] * 5 if direction else [False] * 6 + [True] * 6)


def test_the_branch_of_a_block_is_left_whole_by_drop_path():
    block = MambaBlock(4, torch.nn.Linear(4, 4), 1 - 1e-12).train()
    x = torch.randn(2, 3, 5, 4)
    y, branch = block.with_branch(x)
    assert torch.equal(y, x) and branch.abs().min() > 0
    y, branch = block.eval().with_branch(x)
    torch.testing.assert_close(y, x + branch)
    assert torch.equal(y, block(x))


def test_maps_of_branches_train_recomputed_and_compiled():
    """Drop path is off in the compiled model, because it draws other numbers there."""
    plain = noisy(Vim(SMALL, drop_path_rate=0.5, use_residual_as_feature=False)).train()
    saving, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    saving.with_cp = True
    image = torch.randn(4, 3, 40, 64)
    for model in (plain, saving):
        torch.manual_seed(2)
        backward(model(image))
    for (name, a), b in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None and a.grad.any() and torch.equal(a.grad, b[1].grad), name
    for module in (*plain.modules(), *compiled.modules()):
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    maps = torch.compile(compiled, backend='aot_eager', fullgraph=True)(image)
    for a, b in zip(maps, plain(image), strict=True):
        assert distance(a, b) < 1e-5


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('vim_tiny', "did you mean 'tiny'"),
        (dict(dim=0), 'dim=0, depth=24 and patch_size=16 must be at least 1'),
        (dict(dim=8, depth=3), 'depth=3 must be at least 4'),
        (dict(dim=8, patch_size=14), 'patch_size=14 must be one of 4, 8, 16, 32'),
    ],
)
def test_wrong_sizes_are_refused_with_advice(arch, message):
    with pytest.raises(UserError, match=message):
        Vim(arch)
