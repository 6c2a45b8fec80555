"""PlainMamba equals a plain implementation with the official weights."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import BatchNorm2d
from torch.nn import functional as F

from backbones import PlainMamba, UserError
from backbones.plain_mamba import ARCHS, our_names

SIZES = dict(  # width, depth, 3x3 convolutions of the stem, blocks with a convolution; from the official repository
    l1=(192, 24, 1, (0,)), l2=(384, 24, 2, ()), l3=(448, 36, 2, ())
)
PARAMETERS = dict(
    l1=7_358_656, l2=25_760_832, l3=50_507_456
)  # without the classifier: 7.3, 25.7 and 50.5 M in the paper
SMALL = (20, 4, 1, (0,))  # in the same order, small enough to be computed cell by cell
WITHOUT_DW = (20, 4, 0, ())


def official_shapes(
    dim: int, depth: int, convs: int, dw: tuple[int, ...], segmentor: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official classifier's backbone, or of a segmentor's."""
    inner, rank, shapes = 2 * dim, math.ceil(dim / 16), {}

    def norm(name: str, width: int, batch: bool = False) -> None:
        shapes.update({f'{name}.weight': (width,), f'{name}.bias': (width,)})
        if batch:
            shapes.update({f'{name}.running_mean': (width,), f'{name}.running_var': (width,)})
            shapes[f'{name}.num_batches_tracked'] = ()

    shapes['patch_embed.stem.0.weight'] = (64, 3, 7, 7)
    norm('patch_embed.stem.1', 64, batch=True)
    for i in range(convs):
        shapes[f'patch_embed.convs.{3 * i}.weight'] = (64, 64, 3, 3)
        norm(f'patch_embed.convs.{3 * i + 1}', 64, batch=True)
    shapes |= {'patch_embed.projection.weight': (dim, 64, 8, 8), 'patch_embed.projection.bias': (dim,)}
    shapes['pos_embed'] = (1, 196, dim)
    for i in range(depth):
        norm(f'layers.{i}.norm', dim)
        if i in dw:
            shapes[f'layers.{i}.dw.0.weight'] = (dim, 1, 3, 3)
            norm(f'layers.{i}.dw.1', dim, batch=True)
        mamba = f'layers.{i}.mamba'
        shapes |= {
            f'{mamba}.A_log': (inner, 16),
            f'{mamba}.D': (inner,),
            f'{mamba}.direction_Bs': (5, 16),
            f'{mamba}.in_proj.weight': (2 * inner, dim),
            f'{mamba}.in_proj.bias': (2 * inner,),
            f'{mamba}.conv2d.weight': (inner, 1, 7, 7),
            f'{mamba}.conv2d.bias': (inner,),
            f'{mamba}.x_proj.weight': (rank + 32, inner),
            f'{mamba}.dt_proj.weight': (inner, rank),
            f'{mamba}.dt_proj.bias': (inner,),
            f'{mamba}.out_proj.weight': (dim, inner),
            f'{mamba}.out_proj.bias': (dim,),
        }
    norm('ln1', dim)
    for i in (1, 2, 3) if segmentor else ():
        norm(f'norm_layer{depth * i // 4 - 1}', dim)
    return shapes


def official_weights(*size: object, segmentor: bool = False) -> dict[str, Tensor]:
    """Random weights with the official names and shapes."""
    torch.manual_seed(0)
    weights = {}
    for name, shape in official_shapes(*size, segmentor).items():
        weights[name] = torch.randn(shape) / math.prod(shape[1:]) ** 0.5
        if name.endswith('running_var'):
            weights[name].abs_().add_(0.5)
        elif name.endswith('dt_proj.bias'):
            weights[name] -= 1  # small steps, so that states last
        elif name.endswith('direction_Bs'):
            weights[name] *= 4  # as large as B
    return weights


def snakes(height: int, width: int) -> list[list[tuple[int, int]]]:
    """Cells of the four paths of the paper's Figure 3."""
    rows = [(i, j if i % 2 == 0 else width - 1 - j) for i in range(height) for j in range(width)]
    columns = [(i if j % 2 == 0 else height - 1 - i, j) for j in range(width) for i in range(height)]
    return [rows, rows[::-1], columns, columns[::-1]]


DIRECTIONS = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}  # rows of direction_Bs by step: right, left, up, down


def maps_by_hand(
    state: dict[str, Tensor], image: Tensor, raster_parameters: bool = True, biases: int = 2, directions: bool = True
) -> list[Tensor]:
    """Compute a segmentor's maps of one image ``(3, H, W)``, all at stride 16, from its official weights.

    The step size's bias is added ``biases`` times. ``directions=False`` leaves the directions of the steps out.
    """
    state = {k: v.double() for k, v in state.items()}

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    def conv(x: Tensor, name: str, **arguments: int) -> Tensor:
        x = F.conv2d(x.permute(2, 0, 1), state[f'{name}.weight'], state.get(f'{name}.bias'), **arguments)
        return x.permute(1, 2, 0)

    def batch_norm(x: Tensor, name: str) -> Tensor:
        x = (x - state[f'{name}.running_mean']) / (state[f'{name}.running_var'] + 1e-5).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    def mamba(x: Tensor, name: str) -> Tensor:
        u, z = (x @ state[f'{name}.in_proj.weight'].T + state[f'{name}.in_proj.bias']).chunk(2, -1)
        u = F.silu(conv(u, f'{name}.conv2d', padding=3, groups=u.shape[-1]))
        height, width, inner = u.shape
        rank = state[f'{name}.dt_proj.weight'].shape[1]
        low, b, c = (u @ state[f'{name}.x_proj.weight'].T).split((rank, 16, 16), -1)
        step = F.softplus(low @ state[f'{name}.dt_proj.weight'].T + biases * state[f'{name}.dt_proj.bias'])
        rate, skip, theta = -state[f'{name}.A_log'].exp(), state[f'{name}.D'], state[f'{name}.direction_Bs']
        y = torch.zeros_like(u)
        for path in snakes(height, width):
            h, before = u.new_zeros(inner, 16), None
            for t, cell in enumerate(path):
                at = divmod(t, width) if raster_parameters else cell
                direction = DIRECTIONS[cell[0] - before[0], cell[1] - before[1]] if before else 0
                weights = b[at] + theta[direction] if directions else b[at]
                h = torch.exp(step[at][:, None] * rate) * h + (step[at] * u[cell])[:, None] * weights
                y[cell] += h @ c[at] + skip * u[cell]
                before = cell
        return (y * F.silu(z)) @ state[f'{name}.out_proj.weight'].T + state[f'{name}.out_proj.bias']

    x = conv(image.double().permute(1, 2, 0), 'patch_embed.stem.0', stride=2, padding=3)
    x, i = batch_norm(x, 'patch_embed.stem.1').relu(), 0
    while f'patch_embed.convs.{i}.weight' in state:
        x = conv(x, f'patch_embed.convs.{i}', padding=1)
        x, i = batch_norm(x, f'patch_embed.convs.{i + 1}').relu(), i + 3
    x = F.pad(x, (0, 0, 0, -x.shape[1] % 8, 0, -x.shape[0] % 8))
    x = conv(x, 'patch_embed.projection', stride=8)
    positions = state['pos_embed'].view(1, 14, 14, -1).permute(0, 3, 1, 2)
    x = x + F.interpolate(positions, x.shape[:2], mode='bicubic')[0].permute(1, 2, 0)
    maps, i = [], 0
    while f'layers.{i}.norm.weight' in state:
        x = x + mamba(norm(x, f'layers.{i}.norm', 1e-5), f'layers.{i}.mamba')
        if f'layers.{i}.dw.0.weight' in state:
            dw = conv(x, f'layers.{i}.dw.0', padding=1, groups=x.shape[-1])
            x = F.gelu(batch_norm(dw, f'layers.{i}.dw.1'))
        i += 1
        last = f'layers.{i}.norm.weight' not in state
        if last or f'norm_layer{i - 1}.weight' in state:
            maps.append(norm(x, 'ln1' if last else f'norm_layer{i - 1}', 1e-6).permute(2, 0, 1))
    return maps


def small(size: tuple, **arguments: object) -> PlainMamba:
    dim, depth, convs, dw = size
    return PlainMamba(dict(dim=dim, depth=depth, stem_convs=convs, first_conv=bool(dw)), **arguments)


def loaded(size: tuple, weights: dict[str, Tensor], path, **arguments: object) -> PlainMamba:
    torch.save(dict(meta={}, state_dict={f'backbone.{k}': v for k, v in weights.items()}), path)
    model = small(size, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **arguments)
    model.init_weights()
    return model


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(3, 70, 45)  # 5 x 3 patches, and no multiple of them


@pytest.mark.parametrize('raster_parameters', [True, False])
@pytest.mark.parametrize('size', [SMALL, WITHOUT_DW], ids=['with-dw', 'without-dw'])
def test_maps_equal_the_definition_with_official_weights(size, raster_parameters, image, tmp_path):
    weights = official_weights(*size, segmentor=True)
    model = loaded(size, weights, tmp_path / 'l.pth', strides=[16] * 4, raster_parameters=raster_parameters).double()
    maps = maps_by_hand(weights, image, raster_parameters)
    for ours, expected in zip(model(image[None].double()), maps, strict=True):
        torch.testing.assert_close(ours[0], expected)


@pytest.mark.parametrize('change', [dict(raster_parameters=False), dict(biases=1), dict(directions=False)])
def test_order_of_parameters_second_bias_and_directions_change_the_maps(change, image):
    weights = official_weights(*WITHOUT_DW, segmentor=True)
    for released, changed in zip(maps_by_hand(weights, image), maps_by_hand(weights, image, **change), strict=True):
        assert (released - changed).abs().max() > 1e-2


@pytest.mark.parametrize('name', ARCHS)
def test_official_weights_of_every_size_have_our_names_and_shapes_after_conversion(name):
    _, depth, *_ = SIZES[name]
    with torch.device('meta'):
        official = {k: torch.empty(shape) for k, shape in official_shapes(*SIZES[name], segmentor=True).items()}
        own = PlainMamba(name, strides=[16] * 4)
        classifier = PlainMamba(name, strides=[16] * 4, out_indices=(3,))
    found = our_names(official, depth)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.state_dict().items()}
    assert sum(parameter.numel() for parameter in classifier.parameters()) == PARAMETERS[name]


def test_a_classifiers_last_norm_becomes_that_of_the_last_map(tmp_path):
    weights = official_weights(*SMALL) | {'head.fc.weight': torch.ones(10, 20)}
    state = loaded(SMALL, weights, tmp_path / 'l.pth').state_dict()
    assert torch.equal(state['out_norms.3.weight'], weights['ln1.weight'])
    assert state['out_norms.2.weight'].eq(1).all()  # not in the weights
    assert not any(
        key.startswith('out_norms') for key in loaded(SMALL, weights, tmp_path / 'l.pth', out_norm=False).state_dict()
    )


def test_our_own_names_stay_as_they_are():
    state = small(SMALL).state_dict()
    assert our_names(state, 4) == state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.mamba.direction_Bs'), 'missing blocks.1.s6.directions'),
        (lambda w: w.pop('patch_embed.stem.1.running_mean'), 'missing patch_embed.stem.1.running_mean'),
        (lambda w: w.pop('norm_layer1.bias'), 'missing out_norms.1.bias'),
        (lambda w: w.update({'layers.1.mamba.gamma': torch.ones(20)}), 'unexpected blocks.1.gamma'),
        (lambda w: w.update({'layers.0.mamba.D': torch.ones(9)}), 'blocks.0.s6.D is'),
    ],
)
def test_one_wrong_tensor_is_refused_by_name(change, message, tmp_path):
    change(weights := official_weights(*SMALL, segmentor=True))
    with pytest.raises(UserError, match=message):
        loaded(SMALL, weights, tmp_path / 'l.pth')


@pytest.mark.parametrize('norm_eval', [True, False])
def test_statistics_of_batch_norms_move_only_in_trained_stages_without_norm_eval(norm_eval):
    for frozen in (-1, 0):
        model = small(SMALL, norm_eval=norm_eval, frozen_stages=frozen)
        model.train()
        model(torch.randn(2, 3, 32, 32))
        norms = {name: m for name, m in model.named_modules() if isinstance(m, BatchNorm2d)}
        moved = {name for name, m in norms.items() if m.num_batches_tracked}
        expected = set() if norm_eval else {name for name in norms if frozen < 0 or 'patch_embed' not in name}
        assert len(norms) == 3 and moved == expected
        assert not model.eval().patch_embed.stem[1].training


def test_the_steps_of_a_new_model_are_those_of_mamba():
    model = PlainMamba('l1', out_indices=(0,))
    steps = F.softplus(model.blocks[0].s6.dt_proj.bias)
    assert 1e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1001


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('L1', "did you mean 'l1'"),
        ('plainmamba_l2', "did you mean 'l2'"),
        (dict(dim=8, depth=3), 'depth=3 must be at least 4'),
        (dict(dim=8, depth=4, stem_convs=-1), 'stem_convs=-1 at least 0'),
        (dict(dim=8, depth=4, first_conv='no'), "first_conv='no' in arch must be of type bool"),
    ],
)
def test_wrong_sizes_are_refused_with_advice(arch, message):
    with pytest.raises(UserError, match=message):
        PlainMamba(arch)


def test_an_unknown_implementation_of_the_scan_is_refused():
    with pytest.raises(UserError, match="selective_scan='chunk' is unknown .did you mean 'chunked'"):
        PlainMamba('l1', selective_scan='chunk')


def test_implementations_of_the_scan_give_the_same_maps():
    model, reference = (small(SMALL, selective_scan=name) for name in ('chunked', 'reference'))
    reference.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 70, 45)
    for a, b in zip(model(image), reference(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('first_conv', [False, True])
def test_the_residual_stream_stays_in_fp32_under_autocast(first_conv):
    model, sums = PlainMamba(dict(dim=8, depth=4, stem_convs=0, first_conv=first_conv)), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: sums.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.randn(1, 3, 32, 48))
    assert sums == [torch.float32] * 4
