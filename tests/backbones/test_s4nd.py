"""S4ND-ConvNeXt equals a plain implementation with the official weights."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import S4NDConvNeXt, UserError
from backbones.ops.s4nd import toeplitz
from backbones.s4nd import S4ND, our_names

TINY = ((3, 3, 9, 3), (96, 192, 384, 768), 64)  # depths, channels and state, from the official config
SMALL = ((1, 2), (6, 10), 8)
TRAINED = (24, 24)  # the official code cuts kernels at the maps of images of this size
STEM = 16  # length of the official stem's kernels


def official_shapes(depths: tuple[int, ...], dims: tuple[int, ...], state: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an official classifier."""
    shapes, pairs = {}, state // 2

    def layer(name: str, *shape: int) -> None:
        shapes.update({f'{name}.weight': shape, f'{name}.bias': shape[:1]})

    def s4nd(name: str, width: int, kernels: int = 2) -> None:
        shapes[f'{name}.D'] = (1, width)
        for axis in (0, 1):
            shapes.update({
                f'{name}.kernel.{axis}.C': (kernels, width, pairs, 2),
                f'{name}.kernel.{axis}.inv_dt': (width, 1),
                f'{name}.kernel.{axis}.B': (1, 1, pairs, 2),
                f'{name}.kernel.{axis}.P': (1, 1, pairs, 2),
                f'{name}.kernel.{axis}.A_real': (1, pairs),
                f'{name}.kernel.{axis}.A_imag': (1, pairs),
                f'{name}.kernel.{axis}.l_kernel': (),
            })  # fmt: skip

    s4nd('stem.stem', 3, 2 * 32)
    layer('stem.post_stem.1', 2 * dims[0], 32)
    layer('stem.post_stem.3', dims[0])
    for i, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        if i:
            layer(f'stages.{i}.norm_layer', dims[i - 1])
            s4nd(f'stages.{i}.downsample.s4conv', dims[i - 1])
            layer(f'stages.{i}.downsample.fc', 2 * width, dims[i - 1])
        for j in range(depth):
            block = f'stages.{i}.blocks.{j}'
            shapes[f'{block}.gamma'] = (width,)
            s4nd(f'{block}.conv_dw', width)
            layer(f'{block}.norm', width)
            layer(f'{block}.mlp.fc1', 4 * width, width)
            layer(f'{block}.mlp.fc2', width, 4 * width)
    layer('head.norm', width)
    layer('head.fc', 1000, width)
    return shapes


def map_length(name: str) -> int:
    """Length of the kernels of a state space of the official code, in cells."""
    if name.startswith('stem.'):
        return STEM
    stage = int(name.split('.')[1])
    return TRAINED[0] // (4 * 2 ** (stage - ('downsample' in name)))


def official_weights(scale: float = 1.0) -> dict[str, Tensor]:
    """Random weights with the official names and shapes, whose responses last for several cells."""
    torch.manual_seed(0)
    weights = {}
    for name, shape in official_shapes(*SMALL).items():
        if name.endswith('l_kernel'):
            weights[name] = torch.tensor(map_length(name))
        elif name.endswith('A_real'):
            weights[name] = torch.rand(shape) - 2
        elif name.endswith('A_imag'):
            weights[name] = torch.linspace(6, 0.3, shape[1])[None]
        elif name.endswith('inv_dt'):
            weights[name] = torch.rand(shape) - 2
        else:
            weights[name] = scale * torch.randn(shape) / math.prod(shape[1:-1] or shape[1:]) ** 0.5
    return weights


def responses_by_hand(state: dict[str, Tensor], name: str, length: int) -> Tensor:
    """Impulse responses ``(kernels, dim, length)`` of an official state space: powers of dense matrices."""

    def number(key: str) -> Tensor:
        return torch.view_as_complex(state[f'{name}.{key}'])

    def both(x: Tensor) -> Tensor:
        return torch.cat((x, x.conj()), -1)

    a = both(torch.complex(-state[f'{name}.A_real'].exp(), -state[f'{name}.A_imag'])[0])
    b, p, c, identity = both(number('B')[0, 0]), both(number('P')[0, 0]), both(number('C')), torch.eye(len(a))
    out = torch.zeros(*c.shape[:2], length, dtype=torch.double)
    for channel, step in enumerate(state[f'{name}.inv_dt'][:, 0].exp()):
        system = step / 2 * (a.diag() - torch.outer(p, p.conj()))
        transition = torch.linalg.inv(identity - system) @ (identity + system)
        x = torch.linalg.inv(identity - system) @ (step * b)
        power = torch.linalg.matrix_power(transition, int(state[f'{name}.l_kernel']))
        weights = c[:, channel] @ torch.linalg.inv(identity - power)  # the official code holds C (I - A'^L)
        for i in range(length):
            out[:, channel, i] = (weights @ x).real
            x = transition @ x
    return out


def matrix_by_hand(back: Tensor, ahead: Tensor) -> Tensor:
    """The matrix of a convolution of ``length`` cells with kernels towards both sides, value by value."""
    length = len(back)
    rows = [[back[t - s] if s <= t else ahead[s - t - 1] for s in range(length)] for t in range(length)]
    return torch.stack([torch.stack(row) for row in rows])


def maps_by_hand(state: dict[str, Tensor], image: Tensor, cut: bool = False) -> list[Tensor]:
    """Compute the maps of one image ``(3, H, W)`` from official weights, by the definition."""
    state = {k: v.double() for k, v in state.items()}

    def completed(x: Tensor, size: int) -> Tensor:
        return F.pad(x, (0, -x.shape[2] % size, 0, -x.shape[1] % size))

    def kernels(name: str, axis: int, length: int) -> Tensor:
        values = responses_by_hand(state, f'{name}.kernel.{axis}', length)
        if cut or name.startswith('stem.'):
            values[..., int(state[f'{name}.kernel.{axis}.l_kernel']) :] = 0
        return values

    def s4nd(x: Tensor, name: str) -> Tensor:
        columns, rows = (kernels(name, axis, x.shape[axis + 1]) for axis in (0, 1))
        y = [
            matrix_by_hand(*columns[:, i]) @ u @ matrix_by_hand(*rows[:, i]).T + state[f'{name}.D'][0, i] * u
            for i, u in enumerate(x)
        ]
        return torch.stack(y)

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-6).sqrt()
        return x * state[f'{name}.weight'][:, None, None] + state[f'{name}.bias'][:, None, None]

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.einsum('uhw,vu->vhw', x, state[f'{name}.weight']) + state[f'{name}.bias'][:, None, None]

    def stem(x: Tensor) -> Tensor:
        columns, rows = (kernels('stem.stem', axis, x.shape[axis + 1]) for axis in (0, 1))
        y = torch.zeros(32, *x.shape[1:], dtype=torch.double)
        for i, u in enumerate(x):
            for o in range(32):
                y[o] += matrix_by_hand(*columns[o::32, i]) @ u @ matrix_by_hand(*rows[o::32, i]).T
        y = F.glu(linear(F.avg_pool2d(y, 4), 'stem.post_stem.1'), 0)
        return norm(y, 'stem.post_stem.3')

    x, maps, i = stem(completed(image.double(), 4)), [], 0
    while f'stages.{i}.blocks.0.gamma' in state:
        if i:
            x = completed(norm(x, f'stages.{i}.norm_layer'), 2)
            x = F.avg_pool2d(s4nd(x, f'stages.{i}.downsample.s4conv'), 2)
            x = F.glu(linear(x, f'stages.{i}.downsample.fc'), 0)
        j = 0
        while f'stages.{i}.blocks.{j}.gamma' in state:
            block = f'stages.{i}.blocks.{j}'
            y = norm(s4nd(x, f'{block}.conv_dw'), f'{block}.norm')
            y = linear(F.gelu(linear(y, f'{block}.mlp.fc1')), f'{block}.mlp.fc2')
            x = x + state[f'{block}.gamma'][:, None, None] * y
            j += 1
        maps.append(x)
        i += 1
    return maps


def small(**arguments: object) -> S4NDConvNeXt:
    arch = dict(zip(('depths', 'dims', 'state'), SMALL, strict=True))
    return S4NDConvNeXt(arch, out_indices=range(len(SMALL[0])), out_norm=False, **arguments)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    torch.save(dict(state_dict={f'model.{k}': v for k, v in official_weights().items()}), tmp_path / 'lightning.ckpt')
    return str(tmp_path / 'lightning.ckpt')


@pytest.mark.parametrize(('cut', 'size'), [(False, (18, 45)), (True, (18, 45)), (False, (3, 5))])
def test_maps_equal_the_definition_with_official_weights(checkpoint, cut, size):
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    model = small(init_cfg=init_cfg, kernel_image_size=TRAINED[0] if cut else None)
    model.init_weights()
    image = torch.randn(3, *size)
    expected = maps_by_hand(official_weights(), image, cut)
    for ours, by_hand in zip(model.double()(image[None].double()), expected, strict=True):
        torch.testing.assert_close(ours[0], by_hand, rtol=1e-5, atol=1e-5 * by_hand.abs().max().item())


def test_kernels_cut_at_the_training_size_change_only_larger_maps():
    whole, cut = small(), small(kernel_image_size=TRAINED[0])
    whole.load_state_dict(our_names({k: v for k, v in official_weights().items() if not k.startswith('head.')}))
    cut.load_state_dict(whole.state_dict())
    same, larger = torch.randn(1, 3, *TRAINED), torch.randn(1, 3, 2 * TRAINED[0], TRAINED[1])
    for a, b in zip(whole(same), cut(same), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(whole(larger), cut(larger), strict=True))


def test_the_kernel_of_a_longer_map_continues_that_of_a_shorter_one():
    parameters = S4ND(5, 64).double().kernel.stacked()
    short, long = (toeplitz(*parameters, n, n + 2, 0, 1) for n in (7, 120))
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a, b[:, : a.shape[1], : a.shape[2]], rtol=1e-6, atol=1e-6)
    assert long[0][:, 7:, 0].abs().max() > 1e-3  # beyond the shorter map, it does not end


@pytest.mark.parametrize(('limit', 'stride'), [(0, 1), (3, 2)])
def test_gradients_of_the_matrices_equal_numerical_ones(limit, stride):
    torch.manual_seed(0)
    parameters = [x.detach().requires_grad_() for x in S4ND(2, 4).double().kernel.stacked()]
    # rounding errors of the values, 1e-8, need differences of steps that are not too small
    assert torch.autograd.gradcheck(lambda *p: toeplitz(*p, 4, 6, limit, stride), parameters, eps=1e-3, atol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_the_operator_describes_its_results_to_the_compiler(stride):
    parameters = [x.detach() for x in S4ND(2, 4).kernel.stacked()]
    torch.library.opcheck(toeplitz, (*parameters, 4, 6, 0, stride), test_utils=('test_schema', 'test_faketensor'))


def test_official_weights_have_our_names_and_shapes_after_conversion():
    official = {k: torch.zeros(shape) for k, shape in official_shapes(*TINY).items()}  # l_kernel 0: C is C
    with torch.device('meta'):
        own = S4NDConvNeXt('tiny', out_norm=False).state_dict()
    head = {'head.norm.weight', 'head.norm.bias', 'head.fc.weight', 'head.fc.bias'}
    found = our_names(official)
    assert {k: v.shape for k, v in found.items() if k not in head} == {k: v.shape for k, v in own.items()}
    # 29.409 M with the head and 3 unused parameters of the stem, by the official code
    assert sum(v.numel() for v in found.values()) + 3 == 29_409_457
    assert our_names(own) == own


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('stages.1.blocks.0.conv_dw.kernel.0.P'), 'missing stages.1.blocks.0.s4nd.kernel.0.P'),
        (lambda w: w.update({'stages.0.blocks.0.conv_dw.kernel.0.C': torch.ones(2, 9)}), 'kernel.0.C is .2, 9.'),
        (lambda w: w.update({'stages.0.blocks.0.conv_dw.bias': torch.ones(6)}), 'unexpected .*s4nd.bias'),
    ],
)
def test_one_wrong_tensor_is_refused_by_name(tmp_path, change, message):
    change(weights := official_weights())
    torch.save(weights, path := tmp_path / 'classifier.pth')
    with pytest.raises(UserError, match=message):
        small(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def test_zeros_complete_the_last_patches():
    model, image = small(), torch.randn(1, 3, 18, 23)
    for a, b in zip(model(image), model(F.pad(image, (0, 1, 0, 2))), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(model(image)[0], model(F.pad(image, (1, 0, 2, 0)))[0])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='s4nd_tiny'), "did you mean 'tiny'"),
        (dict(arch=dict(depths=(1,), dims=(8, 16))), 'must be lists of the same length'),
        (dict(arch=dict(depths=(1,), dims=(8,), state=7)), 'state=7 must be a positive even number'),
        (dict(kernel_image_size=31), 'kernel_image_size=31 must be None or a number of pixels from 32'),
        (dict(kernel_image_size='224'), "kernel_image_size='224' must be None"),
    ],
)
def test_wrong_arguments_are_refused_with_advice(arguments, message):
    with pytest.raises(UserError, match=message):
        S4NDConvNeXt(**arguments)
