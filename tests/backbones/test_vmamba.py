"""VMamba equals a plain implementation with the official weights."""

import math
import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import UserError, VMamba
from backbones.vmamba import ARCHS, our_names
from tests.backbones.test_s6 import s6_by_hand

SIZES = dict(  # depths, channels, state, ratio from the official repository, classification/configs/vssm and vmamba.py
    tiny=((2, 2, 9, 2), 96, 16, 2),
    small=((2, 2, 27, 2), 96, 16, 2),
    base=((2, 2, 27, 2), 128, 16, 2),
    tiny_s1l8=((2, 2, 8, 2), 96, 1, 1),
    tiny_s2l5=((2, 2, 5, 2), 96, 1, 2),
    small_s2l15=((2, 2, 15, 2), 96, 1, 2),
    base_s2l15=((2, 2, 15, 2), 128, 1, 2),
)
VANILLA = ((1, 2), 20, 16, 2)  # in the same order, small enough to be computed cell by cell
LATER = ((1, 2), 20, 1, 2)


def official_shapes(
    depths: tuple[int, ...], dim: int, state: int, ratio: int, detector: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official classifier, or of a detector's backbone."""
    vanilla, shapes = state == 16, {}

    def norm(name: str, width: int) -> None:
        shapes.update({f'{name}.weight': (width,), f'{name}.bias': (width,)})

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        shapes.update({f'{name}.weight': (outputs, inputs, size, size), f'{name}.bias': (outputs,)})

    if vanilla:
        conv('patch_embed.0', 3, dim, 4)
        norm('patch_embed.2', dim)
    else:
        conv('patch_embed.0', 3, dim // 2, 3)
        norm('patch_embed.2', dim // 2)
        conv('patch_embed.5', dim // 2, dim, 3)
        norm('patch_embed.7', dim)
    for i, depth in enumerate(depths):
        width, rank = dim * 2**i, math.ceil(dim * 2**i / 16)
        inner = ratio * width
        for j in range(depth):
            block = f'layers.{i}.blocks.{j}'
            norm(f'{block}.norm', width)
            shapes |= {
                f'{block}.op.in_proj.weight': (2 * inner if vanilla else inner, width),
                f'{block}.op.conv2d.weight': (inner, 1, 3, 3),
                f'{block}.op.x_proj_weight': (4, rank + 2 * state, inner),
                f'{block}.op.dt_projs_weight': (4, inner, rank),
                f'{block}.op.dt_projs_bias': (4, inner),
                f'{block}.op.A_logs': (4 * inner, state),
                f'{block}.op.Ds': (4 * inner,),
                f'{block}.op.out_proj.weight': (width, inner),
            }
            norm(f'{block}.op.out_norm', inner)
            if vanilla:
                shapes[f'{block}.op.conv2d.bias'] = (inner,)
            else:
                norm(f'{block}.norm2', width)
                shapes |= {f'{block}.mlp.fc1.weight': (4 * width, width), f'{block}.mlp.fc1.bias': (4 * width,)}
                shapes |= {f'{block}.mlp.fc2.weight': (width, 4 * width), f'{block}.mlp.fc2.bias': (width,)}
        if i < len(depths) - 1 and vanilla:
            norm(f'layers.{i}.downsample.norm', 4 * width)
            shapes[f'layers.{i}.downsample.reduction.weight'] = (2 * width, 4 * width)
        elif i < len(depths) - 1:
            conv(f'layers.{i}.downsample.1', width, 2 * width, 3)
            norm(f'layers.{i}.downsample.3', 2 * width)
        if detector:
            norm(f'outnorm{i}', width)
    if detector:
        return shapes
    norm('classifier.norm', width)
    return shapes | {'classifier.head.weight': (1000, width), 'classifier.head.bias': (1000,)}


def official_weights(*size: object, detector: bool = False) -> dict[str, Tensor]:
    """Random weights with the official names and shapes."""
    torch.manual_seed(0)
    shapes = official_shapes(*size, detector)
    weights = {name: torch.randn(shape) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    return {
        k: v - 3 if k.endswith('dt_projs_bias') else v for k, v in weights.items()
    }  # small steps, so that states last


def maps_by_hand(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """Compute a detector's maps of one image ``(3, H, W)`` from its official weights, by the definition."""
    state = {k: v.double() for k, v in state.items()}
    vanilla = 'patch_embed.5.weight' not in state

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    def conv(x: Tensor, name: str, **arguments: int) -> Tensor:
        return F.conv2d(x.permute(2, 0, 1), state[f'{name}.weight'], state.get(f'{name}.bias'), **arguments).permute(
            1, 2, 0
        )

    def ss2d(x: Tensor, op: str) -> Tensor:
        u = x @ state[f'{op}.in_proj.weight'].T
        if vanilla:
            u, z = u.chunk(2, -1)
        u = F.silu(conv(u, f'{op}.conv2d', padding=1, groups=u.shape[-1]))
        height, width, inner = u.shape
        rows = [(i, j) for i in range(height) for j in range(width)]
        columns = [(i, j) for j in range(width) for i in range(height)]
        y = torch.zeros_like(u)
        for k, cells in enumerate((rows, columns, rows[::-1], columns[::-1])):
            i, j = (torch.tensor(index) for index in zip(*cells, strict=True))
            names = ('x_proj_weight', 'dt_projs_weight', 'dt_projs_bias')
            weights = [state[f'{op}.{name}'][k] for name in names]
            weights += [state[f'{op}.{name}'][k * inner : (k + 1) * inner] for name in ('A_logs', 'Ds')]
            y[i, j] += s6_by_hand(u[i, j], *weights)
        y = norm(y, f'{op}.out_norm')
        return (y * F.silu(z) if vanilla else y) @ state[f'{op}.out_proj.weight'].T

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = F.gelu(x @ state[f'{name}.fc1.weight'].T + state[f'{name}.fc1.bias'])
        return hidden @ state[f'{name}.fc2.weight'].T + state[f'{name}.fc2.bias']

    x = image.double().permute(1, 2, 0)
    if vanilla:
        x = norm(conv(x, 'patch_embed.0', stride=4), 'patch_embed.2')
    else:
        x = F.gelu(norm(conv(x, 'patch_embed.0', stride=2, padding=1), 'patch_embed.2'))
        x = norm(conv(x, 'patch_embed.5', stride=2, padding=1), 'patch_embed.7')
    maps, i = [], 0
    while f'outnorm{i}.weight' in state:
        layer, j = f'layers.{i}', 0
        while f'{layer}.blocks.{j}.norm.weight' in state:
            x = x + ss2d(norm(x, f'{layer}.blocks.{j}.norm'), f'{layer}.blocks.{j}.op')
            if not vanilla:
                x = x + mlp(norm(x, f'{layer}.blocks.{j}.norm2'), f'{layer}.blocks.{j}.mlp')
            j += 1
        maps.append(norm(x, f'outnorm{i}').permute(2, 0, 1))
        i += 1
        if f'outnorm{i}.weight' not in state:
            return maps
        if vanilla:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            x = torch.cat((x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]), -1)
            x = norm(x, f'{layer}.downsample.norm') @ state[f'{layer}.downsample.reduction.weight'].T
        else:
            x = norm(conv(x, f'{layer}.downsample.1', stride=2, padding=1), f'{layer}.downsample.3')
    raise AssertionError('no maps')


def small(size: tuple, **arguments: object) -> VMamba:
    depths, dim, state, ratio = size
    arch = dict(depths=depths, dims=[dim * 2**i for i in range(len(depths))], ssm_ratio=ratio, vanilla=state == 16)
    return VMamba(arch, out_indices=range(len(depths)), **arguments)


@pytest.mark.parametrize('size', [VANILLA, LATER], ids=['vanilla', 'later'])
def test_maps_equal_the_definition_with_official_weights(size, tmp_path):
    weights = official_weights(*size, detector=True)
    content = dict(state_dict={f'backbone.{k}': v for k, v in weights.items()} | {'neck.weight': torch.ones(1)})
    torch.save(content, path := tmp_path / 'detector.pth')
    model = small(size, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    image = torch.randn(3, 20, 28)
    for ours, expected in zip(model.double()(image[None].double()), maps_by_hand(weights, image), strict=True):
        torch.testing.assert_close(ours[0], expected)


@pytest.mark.parametrize('name', ARCHS)
def test_official_weights_of_every_size_have_our_names_and_shapes_after_conversion(name):
    with torch.device('meta'):
        official = {k: torch.empty(shape) for k, shape in official_shapes(*SIZES[name]).items()}
        own = VMamba(name, out_norm=False).state_dict()
    found = our_names(official)
    head = {'head.norm.weight', 'head.norm.bias', 'head.head.weight', 'head.head.bias'}
    assert {k: v.shape for k, v in found.items() if k not in head} == {k: v.shape for k, v in own.items()}
    assert head < set(found)


def first_release(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of the first release of the vanilla family."""
    renamed = {}
    for key, value in weights.items():
        for new, old in (
            ('patch_embed.0.', 'patch_embed.proj.'),
            ('patch_embed.2.', 'patch_embed.norm.'),
            ('.norm.', '.ln_1.') if '.blocks.' in key else ('classifier.', ''),
            ('.op.', '.self_attention.'),
        ):
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


def as_convolutions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with some linear layers as 1x1 convolutions, as in a channels-first model."""
    linear = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')
    return {k: v[..., None, None] if k.endswith(linear) else v for k, v in weights.items()}


@pytest.mark.parametrize(('size', 'older'), [(VANILLA, first_release), (LATER, as_convolutions)])
def test_classifiers_of_older_releases_load_completely(size, older, tmp_path):
    weights, models = official_weights(*size), []
    for release in (weights, older(weights)):
        torch.save(dict(model=release), path := tmp_path / 'classifier.pth')
        models.append(small(size, init_cfg=dict(type='Pretrained', checkpoint=str(path))))
        models[-1].init_weights()
    new, old = (model.state_dict() for model in models)
    assert set(older(weights)) != set(weights) or older is as_convolutions
    for key, value in new.items():
        assert torch.equal(old[key], value), key
        assert not key.startswith('out_norms') or value.eq(key.endswith('weight')).all()  # not in the weights


def test_our_own_names_stay_as_they_are():
    state = small(LATER).state_dict()
    assert our_names(state) == state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.blocks.0.op.A_logs'), 'missing stages.1.blocks.0.op.s6.0.A_log'),
        (lambda w: w.update({'layers.1.blocks.0.op.x_proj_bias': torch.ones(4)}), 'unexpected .*x_proj_bias'),
        (lambda w: w.update({'layers.0.blocks.0.op.Ds': torch.ones(9)}), 's6.0.D is'),
    ],
)
def test_one_wrong_tensor_is_refused_by_name(tmp_path, change, message):
    change(weights := official_weights(*LATER))
    torch.save(dict(model=weights), path := tmp_path / 'classifier.pth')
    with pytest.raises(UserError, match=message):
        small(LATER, init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def test_zeros_complete_the_last_patches_of_the_vanilla_family():
    model, image = small(VANILLA), torch.randn(1, 3, 18, 23)
    whole = F.pad(image, (0, 1, 0, 2))
    for a, b in zip(model(image), model(whole), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('vmamba_tiny', "did you mean 'tiny'"),
        ('tiny_s1l9', "did you mean 'tiny_s1l8'"),
        (dict(depths=(1,), dims=(8, 16)), 'must be lists of the same length'),
        (dict(depths=(0, 1), dims=(8, 16)), 'must be lists of the same length'),
        (dict(depths=(1, 1), dims=(8, 16), ssm_ratio='2'), "ssm_ratio='2' in arch must be of type float"),
        (dict(depths=(1, 1), dims=(8, 16), vanilla='no'), "vanilla='no' in arch must be of type bool"),
        (dict(depths=1, dims=8), 'depths=1 and dims=8 must be lists of the same length'),
        (dict(depths='12', dims=(8, 16)), "depths='12' and dims=.8, 16. must be lists of the same length"),
        (dict(depths=(1,), dims=(8,), ssm_ratio=0.1), 'leaves no channel'),
    ],
)
def test_wrong_sizes_are_refused_with_advice(arch, message):
    with pytest.raises(UserError, match=message):
        VMamba(arch)


def test_an_unknown_implementation_of_the_scan_is_refused():
    with pytest.raises(UserError, match="selective_scan='chunk' is unknown .did you mean 'chunked'"):
        VMamba('tiny', selective_scan='chunk')


def test_implementations_of_the_scan_give_the_same_maps():
    size = dict(depths=(1, 1), dims=(8, 16))
    model, reference = (VMamba(size, out_indices=(0, 1), selective_scan=name) for name in ('chunked', 'reference'))
    reference.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 40, 24)
    for a, b in zip(model(image), reference(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_official_file_with_settings_loads_without_yacs(tmp_path, monkeypatch):
    """The settings are a CfgNode of yacs, a dict with a few attributes."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), dict(__module__='yacs.config'))
    settings = module.CfgNode(MODEL=module.CfgNode(NAME='vssm'))
    settings.__dict__['__immutable__'] = True
    state = VMamba('tiny', out_norm=False).state_dict()
    with monkeypatch.context() as context:
        context.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
        context.setitem(sys.modules, 'yacs.config', module)
        torch.save(dict(model=state, config=settings, epoch=292), path := tmp_path / 'vssm.pth')
    model = VMamba('tiny', out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
