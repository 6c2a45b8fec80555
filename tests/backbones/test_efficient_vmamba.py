"""EfficientVMamba equals a plain implementation with the official weights."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import EfficientVMamba, UserError
from backbones.efficient_vmamba import ARCHS, AtrousS6, our_names
from tests.backbones.conftest import backward, distance, noisy
from tests.backbones.test_s6 import s6_by_hand

SIZES = dict(  # depths and channels in the official logs, classification/logs
    tiny=((2, 2, 4, 2), 48),
    small=((2, 2, 4, 2), 64),
    base=((2, 2, 9, 2), 96),
)
PARAMS = dict(tiny=6_493_660, small=11_273_688, base=33_717_136)  # of the official classifiers; the logs round them
SMALL = ((1, 2, 2, 1), 16)  # in the same order, small enough to be computed cell by cell


def official_shapes(depths: tuple[int, ...], dim: int, detector: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official classifier, or of a detector's backbone."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        shapes.update({f'{name}.weight': shape, f'{name}.bias': shape[:1]})

    def batch_norm(name: str, width: int) -> None:
        add(name, width)
        shapes.update({f'{name}.running_mean': (width,), f'{name}.running_var': (width,)})
        shapes[f'{name}.num_batches_tracked'] = ()

    add('patch_embed.0', dim, 3, 4, 4)
    add('patch_embed.2', dim)
    for i, depth in enumerate(depths):
        width = dim * 2**i
        inner, rank = 2 * width, math.ceil(width / 16)
        for j in range(depth):
            if i < 2:
                block = f'layers.{i}.blocks.{j}'
                add(f'{block}.norm', width)
                shapes |= {
                    f'{block}.op.x_proj_weight': (4, rank + 32, inner),
                    f'{block}.op.dt_projs_weight': (4, inner, rank),
                    f'{block}.op.dt_projs_bias': (4, inner),
                    f'{block}.op.A_logs': (4 * inner, 16),
                    f'{block}.op.Ds': (4 * inner,),
                    f'{block}.op.in_proj.weight': (2 * inner, width),
                    f'{block}.op.out_proj.weight': (width, inner),
                }
                add(f'{block}.op.out_norm', inner)
                add(f'{block}.op.conv2d', inner, 1, 3, 3)
                add(f'{block}.conv_branch.0', width, 1, 3, 3)
                batch_norm(f'{block}.conv_branch.1', width)
                add(f'{block}.conv_branch.3', width, width, 1, 1)
                add(f'{block}.se.norm', width)
                add(f'{block}.se.global_reduce', width // 8, width)
                add(f'{block}.se.channel_select', width, width // 8)
            else:
                block, wide = f'layers.{i}.{j + 1}', 4 * width
                for part, shape in (
                    ('conv_pw', (wide, width, 1, 1)),
                    ('conv_dw', (wide, 1, 3, 3)),
                    ('conv_pw2', (width, wide, 1, 1)),
                ):
                    shapes[f'{block}.{part}.0.weight'] = shape
                    batch_norm(f'{block}.{part}.1', shape[0])
                add(f'{block}.se.conv_reduce', wide // 8, wide, 1, 1)
                add(f'{block}.se.conv_expand', wide, wide // 8, 1, 1)
        if i < len(depths) - 1:
            name = f'layers.{i}.downsample' if i < 2 else f'layers.{i}.{depth + 2}'
            add(f'{name}.norm', 4 * width)
            shapes[f'{name}.reduction.weight'] = (2 * width, 4 * width)
        if detector:
            add(f'outnorm{i}', width)
    if not detector:
        add('classifier.norm', width)
        add('classifier.head', 1000, width)
    return shapes


def official_weights(*size: object, detector: bool = False) -> dict[str, Tensor]:
    """Random weights with the official names and shapes."""
    torch.manual_seed(0)
    shapes = official_shapes(*size, detector=detector)
    weights = {name: torch.randn(shape) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    for key, value in weights.items():
        if key.endswith('dt_projs_bias'):
            value -= 3  # small steps, so that states last
        elif key.endswith('running_var'):
            value.abs_().add_(0.5)
        elif key.endswith('num_batches_tracked'):
            weights[key] = torch.tensor(7)
    return weights


def maps_by_hand(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """Compute a detector's maps of one image ``(3, H, W)`` from its official weights, by the definition."""
    state = {k: v.double() for k, v in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    def batch_norm(x: Tensor, name: str) -> Tensor:
        x = (x - state[f'{name}.running_mean']) / (state[f'{name}.running_var'] + 1e-5).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    def linear(x: Tensor, name: str) -> Tensor:
        y = x @ state[f'{name}.weight'].flatten(1).T  # a 1x1 convolution is one, too
        return y + state[f'{name}.bias'] if f'{name}.bias' in state else y

    def conv(x: Tensor, name: str, **arguments: int) -> Tensor:
        y = F.conv2d(x.permute(2, 0, 1), state[f'{name}.weight'], state.get(f'{name}.bias'), **arguments)
        return y.permute(1, 2, 0)

    def scans(u: Tensor, op: str) -> Tensor:
        height, width, inner = u.shape
        u = F.pad(u, (0, 0, 0, width % 2, 0, height % 2))
        rows, columns = range(0, u.shape[0], 2), range(0, u.shape[1], 2)
        orders = (
            [(i, j) for i in rows for j in columns],
            [(i + 1, j) for j in columns for i in rows],
            [(i, j + 1) for i in rows for j in columns],
            [(i + 1, j + 1) for j in columns for i in rows],
        )
        y = torch.full_like(u, torch.nan)
        for k, cells in enumerate(orders):
            i, j = (torch.tensor(index) for index in zip(*cells, strict=True))
            names = ('x_proj_weight', 'dt_projs_weight', 'dt_projs_bias')
            weights = [state[f'{op}.{name}'][k] for name in names]
            weights += [state[f'{op}.{name}'][k * inner : (k + 1) * inner] for name in ('A_logs', 'Ds')]
            y[i, j] = s6_by_hand(u[i, j], *weights)
        return y[:height, :width]

    def attention(x: Tensor, se: str) -> Tensor:
        mean = norm(x, f'{se}.norm').mean((0, 1))
        return x * linear(F.gelu(linear(mean, f'{se}.global_reduce')), f'{se}.channel_select').sigmoid()

    def evss(x: Tensor, block: str) -> Tensor:
        x = norm(x, f'{block}.norm')
        u, z = linear(x, f'{block}.op.in_proj').chunk(2, -1)
        u = F.silu(conv(u, f'{block}.op.conv2d', padding=1, groups=u.shape[-1]))
        y = norm(scans(u, f'{block}.op'), f'{block}.op.out_norm') * F.silu(z)
        details = conv(x, f'{block}.conv_branch.0', padding=1, groups=x.shape[-1])
        details = linear(F.gelu(batch_norm(details, f'{block}.conv_branch.1')), f'{block}.conv_branch.3')
        return attention(linear(y, f'{block}.op.out_proj'), f'{block}.se') + attention(details, f'{block}.se')

    def inverted(x: Tensor, block: str) -> Tensor:
        x = batch_norm(linear(x, f'{block}.conv_pw.0'), f'{block}.conv_pw.1').relu()
        x = batch_norm(conv(x, f'{block}.conv_dw.0', padding=1, groups=x.shape[-1]), f'{block}.conv_dw.1').relu()
        scale = linear(linear(x.mean((0, 1)), f'{block}.se.conv_reduce').relu(), f'{block}.se.conv_expand').sigmoid()
        return batch_norm(linear(x * scale, f'{block}.conv_pw2.0'), f'{block}.conv_pw2.1')

    x, maps = norm(conv(image.double().permute(1, 2, 0), 'patch_embed.0', stride=4), 'patch_embed.2'), []
    for i in range(4):
        if i < 2:
            depth = len({key.split('.')[3] for key in state if key.startswith(f'layers.{i}.blocks.')})
            merge = f'layers.{i}.downsample'
            for j in range(depth):
                x = x + evss(x, f'layers.{i}.blocks.{j}')
        else:
            depth = len({key.split('.')[2] for key in state if key.startswith(f'layers.{i}.') and 'conv_pw.' in key})
            merge = f'layers.{i}.{depth + 2}'
            for j in range(1, depth + 1):
                x = x + inverted(x, f'layers.{i}.{j}')
        maps.append(norm(x, f'outnorm{i}').permute(2, 0, 1))
        if i < 3:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            x = torch.cat((x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]), -1)
            x = linear(norm(x, f'{merge}.norm'), f'{merge}.reduction')
    return maps


def small(**arguments: object) -> EfficientVMamba:
    depths, dim = SMALL
    return EfficientVMamba(dict(depths=depths, dims=[dim * 2**i for i in range(4)]), **arguments)


def test_maps_equal_the_definition_with_official_weights(tmp_path):
    weights = official_weights(*SMALL, detector=True)
    content = dict(state_dict={f'backbone.{k}': v for k, v in weights.items()} | {'neck.weight': torch.ones(1)})
    torch.save(content, path := tmp_path / 'detector.pth')
    model = small(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    image = torch.randn(3, 36, 52)  # maps of 9x13, 5x7, 3x4 and 2x2 cells
    maps = model.double()(image[None].double())
    for ours, expected in zip(maps, maps_by_hand(weights, image), strict=True):
        torch.testing.assert_close(ours[0], expected)
    model.stages[0].blocks[0].op.s6.insert(0, model.stages[0].blocks[0].op.s6.pop(1))  # two scans exchange their places
    for swapped, ours in zip(model(image[None].double()), maps, strict=True):
        assert distance(swapped, ours) > 1e-2


def test_the_last_patches_are_completed_with_zeros():
    model, image = small(), torch.randn(1, 3, 34, 51)
    for a, b in zip(model(image), model(F.pad(image, (0, 1, 0, 2))), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('name', ARCHS)
def test_official_weights_of_every_size_have_our_names_and_shapes_after_conversion(name):
    with torch.device('meta'):
        official = {k: torch.empty(shape) for k, shape in official_shapes(*SIZES[name]).items()}
        own = EfficientVMamba(name, out_norm=False).state_dict()
    found = our_names(official)
    head = {'head.norm.weight', 'head.norm.bias', 'head.head.weight', 'head.head.bias'}
    assert {k: v.shape for k, v in found.items() if k not in head} == {k: v.shape for k, v in own.items()}
    assert head < set(found)


@pytest.mark.parametrize('name', ARCHS)
def test_every_size_has_the_parameters_of_the_official_classifier(name):
    with torch.device('meta'):
        model = EfficientVMamba(name, out_norm=False)
    width = ARCHS[name].dims[-1]
    classifier = 2 * width + 1000 * (width + 1)  # a norm and a linear layer
    assert sum(p.numel() for p in model.parameters()) + classifier == PARAMS[name]


def test_the_released_form_of_the_weights_loads_completely(tmp_path):
    """The released files hold an averaged classifier in data parallel."""
    weights = official_weights(*SMALL)
    torch.save(dict(state_dict={f'module.module.{k}': v for k, v in weights.items()}), path := tmp_path / 'tiny.ckpt')
    model = small(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    expected = our_names(weights)
    for key, value in model.state_dict().items():
        if key.startswith('out_norms'):  # not in the weights
            assert value.eq(key.endswith('weight')).all()
        else:
            assert torch.equal(value, expected[key]), key


def test_our_own_names_stay_as_they_are():
    state = small().state_dict()
    assert our_names(state) == state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.blocks.0.op.A_logs'), 'missing stages.1.blocks.0.op.s6.0.A_log'),
        (lambda w: w.pop('layers.2.1.conv_dw.1.running_mean'), 'missing stages.2.blocks.0.conv_dw.1.running_mean'),
        (
            lambda w: w.update({'layers.2.1.conv_dw.0.bias': torch.ones(4)}),
            'unexpected stages.2.blocks.0.conv_dw.0.bias',
        ),
        (lambda w: w.update({'layers.3.1.se.conv_reduce.bias': torch.ones(9)}), 'stages.3.blocks.0.se.fc1.bias is'),
    ],
)
def test_one_wrong_tensor_is_refused_by_name(tmp_path, change, message):
    change(weights := official_weights(*SMALL))
    torch.save(dict(state_dict=weights), path := tmp_path / 'classifier.pth')
    with pytest.raises(UserError, match=message):
        small(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def test_a_cell_sees_itself_and_the_earlier_cells_of_its_own_submap():
    x = torch.randn(1, 5, 6, 4, requires_grad=True)
    y = AtrousS6(4, rank=1)(x)
    for i in range(5):
        for j in range(6):
            gradient = torch.autograd.grad(y[0, i, j].sum(), x, retain_graph=True)[0][0]
            submap = {(k, m) for k in range(i % 2, 5, 2) for m in range(j % 2, 6, 2)}
            if i % 2:  # column by column
                earlier = {(k, m) for k, m in submap if (m, k) <= (j, i)}
            else:
                earlier = {(k, m) for k, m in submap if (k, m) <= (i, j)}
            assert set(map(tuple, gradient.any(-1).nonzero().tolist())) == earlier


def test_maps_with_odd_sides_are_scanned_with_zeros_at_their_ends():
    scan, x = AtrousS6(4, rank=1), torch.randn(2, 5, 7, 4)
    assert torch.equal(scan(x), scan(F.pad(x, (0, 0, 0, 1, 0, 1)))[:, :5, :7])
    assert not torch.equal(scan(x), scan(F.pad(x, (0, 0, 0, 1, 0, 1), value=1.0))[:, :5, :7])


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if 'running' in name}


@pytest.mark.parametrize(
    ('arguments', 'moving'),
    [
        (dict(), ''),
        (dict(norm_eval=False), 'stages.0 stages.1 stages.2 stages.3'),
        (dict(norm_eval=False, frozen_stages=2), 'stages.2 stages.3'),
        (dict(frozen_stages=2), ''),
    ],
)
def test_batch_statistics_move_only_in_training_with_norm_eval_off_and_not_in_frozen_stages(arguments, moving):
    model = small(**arguments).train()
    before = statistics(model)
    model(torch.randn(2, 3, 64, 64))
    moved = {name for name, value in statistics(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(tuple(moving.split()))}
    before = statistics(model.eval())
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())


def test_maps_depend_on_the_rest_of_the_batch_only_with_statistics_of_the_batch():
    images = torch.randn(3, 3, 64, 64)
    for norm_eval in (True, False):
        model = noisy(small(norm_eval=norm_eval)).train()
        for together, alone in zip(model(images), model(images[:2]), strict=True):
            assert (distance(together[:2], alone) < 1e-5) == norm_eval


def test_dropped_samples_count_in_the_statistics_of_the_batch():
    """The oracle computes all branches without drop path, block by block, and adds them times a mask."""
    model = noisy(small(norm_eval=False, drop_path_rate=0.6)).train()
    oracle = copy.deepcopy(model)
    images = torch.randn(4, 3, 64, 64)
    torch.manual_seed(3)
    maps = model(images)
    torch.manual_seed(3)
    x, expected, kept = oracle.stem(images), [], []
    for i, stage in enumerate(oracle.stages):
        x = stage.downsample(x)
        for block in stage.blocks:
            rate = block.drop_path.drop_prob
            block.drop_path.drop_prob = 0
            kept.append(x.new_empty(4, 1, 1, 1).bernoulli_(1 - rate) if rate else x.new_ones(4, 1, 1, 1))
            x = x + (block(x) - x) * kept[-1] / (1 - rate)
        expected.append(oracle.out_norms[str(i)](x).permute(0, 3, 1, 2))
    assert any(mask.any() and not mask.all() for mask in kept)
    for a, b in zip(maps, expected, strict=True):
        assert distance(a, b) < 1e-5
    for (name, a), b in zip(statistics(model).items(), statistics(oracle).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_branches_that_all_samples_drop_still_get_statistics_and_zero_gradients():
    model = noisy(small(norm_eval=False, drop_path_rate=0.5)).train()
    for block in (block for stage in model.stages for block in stage.blocks):
        block.drop_path.drop_prob = 1 - 1e-12
    before = statistics(model)
    backward(model(torch.randn(2, 3, 64, 64)))
    assert all(p.grad.any() != ('blocks.' in name) for name, p in model.named_parameters())
    assert not any(torch.equal(value, before[name]) for name, value in statistics(model).items())


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('efficientvmamba_tiny', "did you mean 'tiny'"),
        ('smal', "did you mean 'small'"),
        (dict(depths=(1,), dims=(8, 16)), 'must be lists of the same length'),
        (dict(depths=(1, 1), dims=(4, 16)), 'must be at least 8'),
    ],
)
def test_wrong_sizes_are_refused_with_advice(arch, message):
    with pytest.raises(UserError, match=message):
        EfficientVMamba(arch)
