"""LocalVMamba and LocalVim equal plain implementations with the official weights."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from backbones import LocalVim, LocalVMamba, UserError
from backbones.local_mamba import VIM_ARCHS, VMAMBA_ARCHS, vim_names, vmamba_names
from backbones.ops.scan_orders import Lines, get_order
from tests.backbones import test_vmamba
from tests.backbones.conftest import distance, noisy
from tests.backbones.ops.test_scan_orders import path
from tests.backbones.test_s6 import s6_by_hand

ORDERS = (
    ('rows', 'columns_reversed', 'windows2', 'windows7_reversed'),
    ('rows_reversed', 'columns', 'windows2_reversed', 'windows7'),
    ('rows', 'columns', 'columns_reversed', 'windows2'),
    ('rows_reversed', 'rows', 'windows7', 'columns'),
)
VMAMBA = dict(depths=(1, 2), dims=(20, 40), orders=ORDERS[:3])
VIM = dict(dim=8, depth=4, orders=ORDERS)
GRID = 14  # of the pretraining's patches


def attention_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official channel attention."""
    hidden = width // 8
    return {
        f'{name}.norm.weight': (width,),
        f'{name}.norm.bias': (width,),
        f'{name}.global_reduce.weight': (hidden, width),
        f'{name}.global_reduce.bias': (hidden,),
        f'{name}.channel_select.weight': (width, hidden),
        f'{name}.channel_select.bias': (width,),
    }


def vmamba_shapes(depths: tuple[int, ...], dims: tuple[int, ...], detector: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official LocalVMamba: those of a vanilla VMamba, and the attention."""
    shapes = test_vmamba.official_shapes(depths, dims[0], 16, 2, detector)
    for i, depth in enumerate(depths):
        for j in range(depth):
            shapes |= attention_shapes(f'layers.{i}.blocks.{j}.op.multi_scan.attn', 2 * dims[i])
    return shapes


def vim_shapes(dim: int, depth: int, orders: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official classifier, without tables of rotary positions."""
    hidden, rank = 2 * dim, math.ceil(dim / 16)
    shapes = {
        'patch_embed.proj.weight': (dim, 3, 16, 16),
        'patch_embed.proj.bias': (dim,),
        'pos_embed': (1, GRID * GRID, dim),
        'norm_f.weight': (dim,),
        'head.weight': (1000, dim),
        'head.bias': (1000,),
    }
    for i in range(depth):
        mixer = f'layers.{i}.mixer'
        shapes |= attention_shapes(f'{mixer}.attn', hidden) | {
            f'layers.{i}.norm.weight': (dim,),
            f'{mixer}.in_proj.weight': (2 * hidden, dim),
            f'{mixer}.out_proj.weight': (dim, hidden),
        }
        for k in range(orders):
            shapes |= {
                f'{mixer}.conv1d_{k}.weight': (hidden, 1, 4),
                f'{mixer}.conv1d_{k}.bias': (hidden,),
                f'{mixer}.x_proj_{k}.weight': (rank + 32, hidden),
                f'{mixer}.dt_proj_{k}.weight': (hidden, rank),
                f'{mixer}.dt_proj_{k}.bias': (hidden,),
                f'{mixer}.A_log_{k}': (hidden, 16),
                f'{mixer}.D_{k}': (hidden,),
            }
    return shapes


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights, with small step sizes so that states last."""
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    return {k: v - 3 if 'dt_proj' in k and k.endswith('bias') else v for k, v in weights.items()}


def rope_tables(dim: int) -> dict[str, Tensor]:
    """The official tables of rotary positions, ``(patches, dim)``: pairs of channels for rows, then for columns."""
    cells = [(i, j) for i in range(GRID) for j in range(GRID)]
    speeds = [10000 ** (-2 * k / (dim / 2)) for k in range(dim // 4)]
    angles = [[place * speed for place in cell for speed in speeds for _ in range(2)] for cell in cells]
    angles = torch.tensor(angles, dtype=torch.double)
    return {'rope.freqs_cos': angles.cos(), 'rope.freqs_sin': angles.sin()}


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def attend(y: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean = layer_norm(y, state, f'{name}.norm').mean((0, 1))
    hidden = F.gelu(state[f'{name}.global_reduce.weight'] @ mean + state[f'{name}.global_reduce.bias'])
    return y * (state[f'{name}.channel_select.weight'] @ hidden + state[f'{name}.channel_select.bias']).sigmoid()


def scan_by_hand(x: Tensor, order: str, bug: bool, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of sequences to a map ``(H, W, C)``, cell by cell in an order."""
    height, width = x.shape[:2]
    cells = path(order, height, width)
    inside = [(i, j) if i < height and j < width else None for i, j in cells]
    y = mix(torch.stack([torch.zeros_like(x[0, 0]) if cell is None else x[cell] for cell in inside]))
    if bug and order.startswith('columns'):  # position k of the sequence belongs to row k // width, and is transposed
        inside = [divmod(k % width * height + k // width, width) for k in range(height * width)]
        y = y.flip(0) if order.endswith('reversed') else y
    out = torch.zeros(height, width, y.shape[-1], dtype=y.dtype)
    for cell, value in zip(inside, y, strict=True):
        if cell is not None:
            out[cell] = value
    return out


def vmamba_by_hand(state: dict[str, Tensor], image: Tensor, bug: bool) -> list[Tensor]:
    """Compute a detector's maps of one image ``(3, H, W)`` from official weights of ``VMAMBA``, by the definition."""
    state = {k: v.double() for k, v in state.items()}
    names, orders = ('x_proj_weight', 'dt_projs_weight', 'dt_projs_bias', 'A_logs', 'Ds'), iter(ORDERS)

    def conv(x: Tensor, name: str, **arguments: int) -> Tensor:
        y = F.conv2d(x.permute(2, 0, 1), state[f'{name}.weight'], state[f'{name}.bias'], **arguments)
        return y.permute(1, 2, 0)

    def op(x: Tensor, name: str) -> Tensor:
        u, z = (x @ state[f'{name}.in_proj.weight'].T).chunk(2, -1)
        u = F.silu(conv(u, f'{name}.conv2d', padding=1, groups=u.shape[-1]))
        y = 0
        for k, order in enumerate(next(orders)):
            weights = [state[f'{name}.{part}'].unflatten(0, (4, -1))[k] for part in names[3:]]
            weights = [state[f'{name}.{part}'][k] for part in names[:3]] + weights
            scanned = scan_by_hand(u, order, bug, lambda u, weights=weights: s6_by_hand(u, *weights))
            y = y + attend(scanned, state, f'{name}.multi_scan.attn')
        return (layer_norm(y, state, f'{name}.out_norm') * F.silu(z)) @ state[f'{name}.out_proj.weight'].T

    x = layer_norm(conv(image.double().permute(1, 2, 0), 'patch_embed.0', stride=4), state, 'patch_embed.2')
    maps = []
    for i, depth in enumerate(VMAMBA['depths']):
        for j in range(depth):
            block = f'layers.{i}.blocks.{j}'
            x = x + op(layer_norm(x, state, f'{block}.norm'), f'{block}.op')
        maps.append(layer_norm(x, state, f'outnorm{i}').permute(2, 0, 1))
        if i == 0:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            x = torch.cat((x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]), -1)
            x = layer_norm(x, state, 'layers.0.downsample.norm') @ state['layers.0.downsample.reduction.weight'].T
    return maps


def vim_by_hand(state: dict[str, Tensor], image: Tensor, bug: bool, residual: bool) -> list[Tensor]:
    """Compute maps of one image ``(3, H, W)`` after each block from official weights of ``VIM``, by the definition."""
    state = {k: v.double() for k, v in state.items()}
    tables = rope_tables(VIM['dim']) if 'rope.freqs_cos' in state else {}

    def conv_s6(xz: Tensor, mixer: str, k: int) -> Tensor:
        x, z = xz.chunk(2, -1)
        padded = torch.cat((torch.zeros(3, x.shape[1], dtype=x.dtype), x))
        taps = state[f'{mixer}.conv1d_{k}.weight'][:, 0]
        u = sum(padded[i : i + len(x)] * taps[:, i] for i in range(4)) + state[f'{mixer}.conv1d_{k}.bias']
        names = (f'x_proj_{k}.weight', f'dt_proj_{k}.weight', f'dt_proj_{k}.bias', f'A_log_{k}', f'D_{k}')
        return s6_by_hand(F.silu(u), *(state[f'{mixer}.{name}'] for name in names)) * F.silu(z)

    def resized(table: Tensor, height: int, width: int) -> Tensor:
        table = table.view(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        return F.interpolate(table, (height, width), mode='bicubic', align_corners=False)[0].permute(1, 2, 0)

    def rotate(x: Tensor) -> Tensor:
        if not tables:
            return x
        cos, sin = (resized(table, *x.shape[:2]) for table in tables.values())
        turned = torch.empty_like(x)
        turned[..., ::2] = x[..., ::2] * cos[..., ::2] - x[..., 1::2] * sin[..., ::2]
        turned[..., 1::2] = x[..., 1::2] * cos[..., 1::2] + x[..., ::2] * sin[..., 1::2]
        return turned

    image = F.pad(image.double(), (0, -image.shape[2] % 16, 0, -image.shape[1] % 16))
    x = F.conv2d(image, state['patch_embed.proj.weight'], state['patch_embed.proj.bias'], stride=16).permute(1, 2, 0)
    x = x + resized(state['pos_embed'], *x.shape[:2])
    maps = []
    for i, orders in enumerate(ORDERS):
        mixer = f'layers.{i}.mixer'
        x = rotate(x)
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f'layers.{i}.norm.weight']
        xz, y = normed @ state[f'{mixer}.in_proj.weight'].T, 0
        for k, order in enumerate(orders):
            scanned = scan_by_hand(xz, order, bug, lambda xz, mixer=mixer, k=k: conv_s6(xz, mixer, k))
            y = y + attend(scanned, state, f'{mixer}.attn')
        y = y @ state[f'{mixer}.out_proj.weight'].T
        x = x + y
        maps.append(layer_norm(x if residual else y, state, f'outnorm_{i}').permute(2, 0, 1))
    return maps


def official_vim(rope: bool = True) -> dict[str, Tensor]:
    """Random official weights of ``VIM``, with output norms."""
    norms = {f'outnorm_{i}.{part}': (VIM['dim'],) for i in range(4) for part in ('weight', 'bias')}
    weights = random_weights(vim_shapes(VIM['dim'], VIM['depth']) | norms)
    return weights | {k: v.float() for k, v in rope_tables(VIM['dim']).items() if rope}


@pytest.mark.parametrize('bug', [False, True])
def test_maps_of_localvmamba_equal_the_definition_with_official_weights(bug, tmp_path):
    weights = random_weights(vmamba_shapes(VMAMBA['depths'], VMAMBA['dims'], detector=True))
    content = dict(state_dict={f'backbone.{k}': v for k, v in weights.items()} | {'neck.weight': torch.ones(1)})
    torch.save(content, checkpoint := tmp_path / 'detector.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))
    model = LocalVMamba(VMAMBA, out_indices=(0, 1), official_bug=bug, init_cfg=init_cfg)
    model.init_weights()
    image = torch.randn(3, 20, 28)
    maps = model.double()(image[None].double())
    for ours, expected in zip(maps, vmamba_by_hand(weights, image, bug), strict=True):
        torch.testing.assert_close(ours[0], expected)
    assert distance(maps[1][0], vmamba_by_hand(weights, image, not bug)[1]) > 1e-3


@pytest.mark.parametrize(('bug', 'residual', 'rope'), [(False, True, True), (True, False, True), (False, True, False)])
def test_maps_of_localvim_equal_the_definition_with_official_weights(bug, residual, rope, tmp_path):
    torch.save(dict(state_dict=official_vim(rope)), checkpoint := tmp_path / 'local_vim.ckpt')
    model = LocalVim(
        VIM | dict(rope=rope),
        strides=(16, 16, 16, 16),
        use_residual_as_feature=residual,
        official_bug=bug,
        init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)),
    )
    model.init_weights()
    image = torch.randn(3, 40, 60)
    maps = model.double()(image[None].double())
    for ours, expected in zip(maps, vim_by_hand(official_vim(rope), image, bug, residual), strict=True):
        torch.testing.assert_close(ours[0], expected)
    other = vim_by_hand(official_vim(not rope), image, bug, residual)
    assert distance(maps[3][0], other[3]) > 1e-3


@pytest.mark.parametrize(('cls', 'arch', 'stages'), [(LocalVMamba, VMAMBA, (0, 1)), (LocalVim, VIM, (0, 1, 2, 3))])
def test_the_official_bug_changes_no_map_of_a_square_image_but_those_of_other_images(cls, arch, stages):
    torch.manual_seed(0)
    right, wrong = (cls(arch, out_indices=stages, official_bug=bug).eval() for bug in (False, True))
    wrong.load_state_dict(noisy(right).state_dict())
    square, wide = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 48, 80)
    assert all(torch.equal(a, b) for a, b in zip(right(square), wrong(square), strict=True))
    assert all(distance(a, b) > 1e-4 for a, b in zip(right(wide), wrong(wide), strict=True))


def test_the_bug_concerns_columns_alone():
    model = LocalVMamba(VMAMBA, out_indices=(0, 1), official_bug=True)
    for block, names in zip((b for stage in model.stages for b in stage.blocks), ORDERS[:3], strict=True):
        for order, name in zip(block.op.s6.maps.orders, names, strict=True):
            assert (order == get_order(name)) != name.startswith('columns')
            assert isinstance(order, Lines) or order == get_order(name)


@pytest.mark.parametrize(('name', 'params', 'dense'), [('tiny', 25.527, 24.760), ('small', 49.749, 48.981)])
def test_official_weights_of_every_localvmamba_have_our_names_and_shapes_after_conversion(name, params, dense):
    depths = dict(tiny=(2, 2, 9, 2), small=(2, 2, 27, 2))[name]
    shapes = vmamba_shapes(depths, (96, 192, 384, 768))
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 3) == params
    with torch.device('meta'):
        found = vmamba_names({k: torch.empty(shape) for k, shape in shapes.items()})
        model = LocalVMamba(name)
    own = {k: v.shape for k, v in model.state_dict().items() if not k.startswith('out_norms.')}
    assert {k: v.shape for k, v in found.items() if not k.startswith('head.')} == own
    assert len(found) == len(own) + 4
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == dense


@pytest.mark.parametrize(
    ('name', 'params'), [('tiny', 7.994), ('small', 27.784), ('small_searched', 27.784), ('tiny_without_rope', 7.994)]
)
def test_official_weights_of_every_localvim_have_our_names_and_shapes_after_conversion(name, params):
    shapes = vim_shapes(384 if 'small' in name else 192, 20)
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 3) == params
    with torch.device('meta'):
        found = vim_names({k: torch.empty(shape) for k, shape in shapes.items()})
        own = LocalVim(name, out_norm=False, strides=(16, 16, 16, 16)).state_dict()
    classifier = {'norm_f.weight', 'head.weight', 'head.bias'}
    assert {k: v.shape for k, v in found.items() if k not in classifier} == {k: v.shape for k, v in own.items()}
    assert classifier < set(found)


def test_our_own_names_stay_as_they_are():
    state = LocalVMamba(VMAMBA, out_indices=(0, 1)).state_dict()
    assert vmamba_names(state) == state
    state = LocalVim(VIM).state_dict()
    assert vim_names(state) == state


@pytest.mark.parametrize(
    ('arch', 'first', 'last', 'counts'),
    [
        (VMAMBA_ARCHS['tiny'], 'h h_flip w7 w7_flip', 'h_flip v w7 w7_flip', (6, 11, 5, 11, 5, 8, 6, 8)),
        (VMAMBA_ARCHS['small'], 'h v v_flip w7_flip', 'h v w7 w7_flip', (20, 18, 26, 25, 6, 7, 17, 13)),
        (VIM_ARCHS['tiny'], 'h v_flip w7 w7_flip', 'v v_flip w2 w2_flip', (14, 14, 16, 15, 6, 6, 7, 2)),
        (VIM_ARCHS['small'], 'h h_flip w2 w2_flip', 'h h_flip w2 w2_flip', (20, 20, 0, 0, 20, 20, 0, 0)),
    ],
)
def test_each_size_has_the_orders_of_the_official_lists(arch, first, last, counts):
    """The counts are those of h, h_flip, v, v_flip, w2, w2_flip, w7 and w7_flip in the lists of the official files."""
    ours = dict(zip(('h', 'v', 'w2', 'w7'), ('rows', 'columns', 'windows2', 'windows7'), strict=True))
    ours |= {f'{short}_flip': f'{name}_reversed' for short, name in ours.items()}
    assert arch.orders[0] == tuple(ours[short] for short in first.split())
    assert arch.orders[-1] == tuple(ours[short] for short in last.split())
    found = Counter(name for block in arch.orders for name in block)
    assert tuple(found[ours[line + flip]] for line in ('h', 'v', 'w2', 'w7') for flip in ('', '_flip')) == counts


def test_other_sizes_of_localvim_have_the_orders_of_the_tiny_one():
    assert VIM_ARCHS['small_searched'].orders == VIM_ARCHS['tiny_without_rope'].orders == VIM_ARCHS['tiny'].orders
    assert VIM_ARCHS['small'].orders != VIM_ARCHS['tiny'].orders


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.mixer.A_log_2'), 'missing blocks.1.mixer.s6.2.A_log'),
        (lambda w: w.update({'layers.1.mixer.x_proj_4.weight': torch.ones(4)}), 'unexpected .*x_proj'),
        (lambda w: w.update({'layers.0.mixer.D_0': torch.ones(9)}), 's6.0.D is'),
        (lambda w: w.update({'cls_token': torch.ones(1, 1, 8)}), "have a class token.* arch='tiny_without_rope'"),
        (lambda w: w.update({'rope.freqs_sin': w['rope.freqs_cos']}), 'rope.freqs_sin is not that of a grid of 14x14'),
        (lambda w: w.update({'rope.freqs_cos': torch.ones(4, 8)}), 'rope.freqs_cos is not that of a grid of 14x14'),
    ],
)
def test_one_wrong_tensor_of_localvim_is_refused_by_name(tmp_path, change, message):
    change(weights := official_vim())
    torch.save(dict(state_dict=weights), checkpoint := tmp_path / 'local_vim.ckpt')
    with pytest.raises(UserError, match=message):
        LocalVim(VIM, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint))).init_weights()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('layers.1.blocks.0.op.A_logs'), 'missing stages.1.blocks.0.op.s6.maps.0.A_log'),
        (lambda w: w.pop('layers.1.blocks.0.op.multi_scan.attn.norm.weight'), 'missing .*s6.attn.norm.weight'),
        (lambda w: w.update({'layers.0.blocks.0.op.Ds': torch.ones(9)}), 's6.maps.0.D is'),
    ],
)
def test_one_wrong_tensor_of_localvmamba_is_refused_by_name(tmp_path, change, message):
    change(weights := random_weights(vmamba_shapes(VMAMBA['depths'], VMAMBA['dims'])))
    torch.save(dict(state_dict=weights), checkpoint := tmp_path / 'local_vssm.ckpt')
    model = LocalVMamba(VMAMBA, out_indices=(0, 1), init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    with pytest.raises(UserError, match=message):
        model.init_weights()


def test_weights_with_a_class_token_lose_its_position_in_the_middle(tmp_path):
    weights = random_weights(vim_shapes(VIM['dim'], VIM['depth']))
    patches, token = weights['pos_embed'], torch.ones(1, 1, 8)
    weights |= dict(cls_token=token, pos_embed=torch.cat((patches[:, :98], token, patches[:, 98:]), 1))
    torch.save(dict(state_dict=weights), checkpoint := tmp_path / 'local_vim_middle_cls_token.ckpt')
    model = LocalVim(VIM | dict(rope=False), init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    model.init_weights()
    assert torch.equal(model.pos_embed, patches)


def test_weights_with_rotary_positions_are_refused_by_a_model_without():
    with pytest.raises(UserError, match='trained with rotary positions: set an arch with rope=True'):
        LocalVim(VIM | dict(rope=False)).convert_state_dict(official_vim())


@pytest.mark.parametrize(
    ('cls', 'arch', 'message'),
    [
        (LocalVim, VIM | dict(orders=ORDERS[:3]), 'a list of scan orders for each of the 4 blocks, not 3'),
        (LocalVim, VIM | dict(orders=['rows'] * 4), r"each of the 4 blocks, not \['rows', 'rows'"),
        (LocalVim, VIM | dict(orders=[['rows'], [], ['rows'], ['rows']]), 'each of the 4 blocks, not'),
        (LocalVim, VIM | dict(orders=[['row']] * 4), "unknown scan order 'row' .did you mean 'rows'"),
        (LocalVim, VIM | dict(dim=6), 'dim=6 must be a multiple of 4'),
        (LocalVim, VIM | dict(dim=0), 'dim=0, depth=4 and patch_size=16 must be at least 1'),
        (LocalVim, 'tinny', "did you mean 'tiny'"),
        (LocalVMamba, VMAMBA | dict(orders=ORDERS), 'each of the 3 blocks, not 4'),
        (LocalVMamba, VMAMBA | dict(dims=(8,)), 'must be lists of the same length'),
        (LocalVMamba, 'tinny', "did you mean 'tiny'"),
    ],
)
def test_wrong_sizes_are_refused_with_advice(cls, arch, message):
    with pytest.raises(UserError, match=message):
        cls(arch)


def test_activation_checkpointing_keeps_one_input_of_each_block():
    model = LocalVim(dict(dim=8, depth=4, orders=[['rows']] * 4), with_cp=True).train()
    shapes = []
    with saved_tensors_hooks(lambda x: shapes.append(tuple(x.shape)) or x, lambda x: x):
        x = model.patch_embed(torch.randn(1, 3, 48, 64))
        shapes.clear()
        model._run_stage(list(model.blocks), x)
    assert shapes.count((1, 3, 4, 8)) == 4
