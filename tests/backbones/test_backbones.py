"""Tests that every registered backbone passes."""

import copy
import os
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

import backbones
from backbones import UserError
from backbones.base import STRIDES, Backbone
from backbones.drop_path import DropPath
from tests.backbones.conftest import backward, distance, noisy

PYRAMID = dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 96))  # for all pyramids
VIT = dict(dim=32, depth=4, heads=2)
ORDERS = (('rows', 'windows7_reversed'), ('columns',), ('windows2', 'columns_reversed'), ('rows',), ('rows_reversed',))
# Small configurations of each backbone, one for each kind of block. Every test below runs on all of them.
SMALL: dict[str, list[dict]] = dict(
    MambaOut=[dict(arch=PYRAMID), dict(arch=PYRAMID, ssm=['rows', 'columns_reversed'])],
    VMamba=[dict(arch=PYRAMID | dict(vanilla=True)), dict(arch=PYRAMID | dict(ssm_ratio=1.0))],
    LocalVMamba=[dict(arch=PYRAMID | dict(orders=ORDERS))],
    EfficientVMamba=[dict(arch=PYRAMID)],
    ViT=[dict(arch=VIT), dict(arch=VIT, causal=True)],
    PlainMamba=[
        dict(arch=dict(dim=16, depth=4, stem_convs=1, first_conv=True)),
        dict(arch=dict(dim=16, depth=4, stem_convs=0), raster_parameters=False),
    ],
    S4NDConvNeXt=[dict(arch=PYRAMID | dict(state=8))],
    Vim=[dict(arch=dict(dim=16, depth=4))],
    LocalVim=[dict(arch=dict(dim=16, depth=4, orders=ORDERS[1:]))],
)
# models whose LayerNorms have PyTorch's epsilon
LARGER_EPS = (backbones.VMamba, backbones.EfficientVMamba, backbones.LocalVMamba, backbones.LocalVim)
QUICK_TO_COMPILE = ('MambaOut', 'ViT')
STEMS = ('stem.', 'patch_embed.', 'pos_embed')  # prefixes of the names of a stem's parameters


CASES = [
    pytest.param(dict(type=name, **small), id=f'{name}{i or ""}')
    for name, configurations in SMALL.items()
    for i, small in enumerate(configurations)
]


@pytest.fixture(params=CASES)
def build(request) -> Callable[..., Backbone]:
    """Return a function that builds a small backbone from a config and further arguments."""
    torch.manual_seed(0)
    return lambda **arguments: MODELS.build(request.param | arguments)


def test_every_registered_backbone_is_public_and_tested_here():
    for module in iter_modules(backbones.__path__, 'backbones.'):
        import_module(module.name)
    ours = {name for name, cls in MODELS.module_dict.items() if cls.__module__.startswith('backbones.')}
    assert ours <= set(backbones.__all__)
    assert ours == set(SMALL)


@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 97), (5, 224)])
def test_images_of_any_size_give_four_maps_at_strides_4_to_32(build, size):
    model = build()
    maps = model(torch.randn(2, 3, *size))
    dims = [norm.weight.numel() for norm in model.out_norms.values()]
    expected = [(2, dim, -(-size[0] // s), -(-size[1] // s)) for dim, s in zip(dims, STRIDES, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.is_contiguous() and m.isfinite().all() for m in maps)


def test_the_maps_of_an_image_do_not_depend_on_the_rest_of_its_batch(build):
    model, images = noisy(build()), torch.randn(3, 3, 40, 72)
    for together, alone in zip(model(images), model(images[1:2]), strict=True):
        assert distance(together[1:2], alone) < 1e-5


def test_the_output_norm_is_a_layer_norm_over_the_channels_of_each_map(build):
    normed = noisy(build()).eval()
    bare = build(out_norm=False).eval()
    bare.load_state_dict({k: v for k, v in normed.state_dict().items() if not k.startswith('out_norms.')})
    image, eps = torch.randn(1, 3, 64, 96), 1e-5 if isinstance(normed, LARGER_EPS) else 1e-6
    for i, (a, b) in enumerate(zip(normed(image), bare(image), strict=True)):
        mean, variance = b.mean(1, keepdim=True), b.var(1, keepdim=True, unbiased=False)
        weight, bias = (p.view(1, -1, 1, 1) for p in normed.out_norms[str(i)].parameters())
        torch.testing.assert_close(a, (b - mean) / (variance + eps).sqrt() * weight + bias)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 2), (1,)])
def test_out_indices_choose_maps_and_every_parameter_gets_a_gradient(build, out_indices):
    whole, part = noisy(build()), build(out_indices=out_indices)
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(part(image), [whole(image)[i] for i in out_indices], strict=True):
        torch.testing.assert_close(a, b)
    backward(part(image))
    assert [name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3, 4])
def test_frozen_stages_get_no_gradient_and_no_drop_path(build, frozen):
    model = build(drop_path_rate=0.5, frozen_stages=frozen, out_norm=False).train()
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if frozen < 1:
        assert names == {name for name, _ in model.named_parameters() if frozen == 0 and name.startswith(STEMS)}
    else:  # the model up to the last frozen stage, without its output layers
        needed = dict(build(out_indices=(frozen - 1,), out_norm=False).named_parameters())
        assert names == {name for name in needed if not any(key in name for key in model.allowed_missing_keys)}
        images = torch.randn(8, 3, 32, 32)
        assert torch.equal(model(images)[frozen - 1], model(images)[frozen - 1])
    if frozen < 4:
        assert not torch.equal(model(torch.ones(8, 3, 32, 32))[3], model(torch.ones(8, 3, 32, 32))[3])


def test_drop_path_grows_from_zero_to_its_rate_and_is_off_in_evaluation(build):
    plain, dropping = noisy(build()).eval(), build(drop_path_rate=0.3).eval()
    dropping.load_state_dict(plain.state_dict())
    rates = [module.drop_prob for module in dropping.modules() if hasattr(module, 'drop_prob')]
    assert rates == sorted(rates) and rates[0] < 0.15 and rates[-1] == pytest.approx(0.3)
    assert not any(getattr(module, 'drop_prob', 0) for module in plain.modules())
    image = torch.randn(2, 3, 64, 64)
    for a, b in zip(dropping(image), plain(image), strict=True):
        assert torch.equal(a, b)


class Masked(DropPath):
    """Drop path as its definition reads: the branch of all samples, times a mask."""

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.drop_prob:
            return x + branch(x)
        mask = (torch.rand(len(x)) < 1 - self.drop_prob).view(-1, *[1] * (x.dim() - 1))
        return x + branch(x) * mask / (1 - self.drop_prob)


@pytest.mark.parametrize('autocast', [False, True])
def test_maps_and_gradients_equal_those_of_a_mask(build, autocast):
    model = noisy(build(drop_path_rate=0.7)).train()
    oracle = copy.deepcopy(model)
    for module in oracle.modules():
        if isinstance(module, DropPath):
            module.__class__ = Masked
    images = torch.randn(3, 3, 40, 64)
    for seed in (2, 3):
        maps = []
        for net in (model, oracle):
            net.zero_grad()
            torch.manual_seed(seed)
            with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
                maps.append(net(images))
            backward([m.float() for m in maps[-1]])
        for a, b in zip(*maps, strict=True):
            assert a.dtype is b.dtype and distance(a, b) < (0.05 if autocast else 1e-5)
        for (name, a), b in zip(model.named_parameters(), oracle.parameters(), strict=True):
            if not autocast:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4 * b.grad.abs().max().item(), msg=name)


@pytest.mark.parametrize('autocast', [False, True])
def test_branches_that_all_samples_drop_get_zero_gradients(build, autocast):
    """``None`` instead of zeros would let DDP wait for ever."""
    model = noisy(build(drop_path_rate=0.5)).train()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 1 - 1e-12
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        maps = model(torch.randn(2, 3, 40, 64))
    backward([m.float() for m in maps])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    dropped = {name for name in gradients if 'blocks.' in name and '.dw.' not in name}  # which follows PlainMamba's sum
    assert all(gradient.any() != (name in dropped) for name, gradient in gradients.items())


def test_activation_checkpointing_saves_less_and_changes_no_map_or_gradient(build):
    plain = noisy(build(drop_path_rate=0.5)).train()
    saving = build(drop_path_rate=0.5, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(4, 3, 64, 64)
    saved = []
    for model in (plain, saving):
        tensors = []
        torch.manual_seed(2)  # for the same drop path in both models
        with saved_tensors_hooks(lambda tensor, tensors=tensors: tensors.append(tensor) or tensor, lambda x: x):
            maps = model(image)
        saved.append(sum(tensor.numel() for tensor in tensors))
        backward(maps)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert saved[1] < saved[0]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_fp32_and_trains(build, dtype):
    model = noisy(build())
    image = torch.randn(1, 3, 64, 96)
    with torch.autocast('cpu', dtype):
        maps = model(image)
    for a, b in zip(maps, model(image), strict=True):
        assert distance(a.float(), b) < (0.1 if dtype is torch.bfloat16 else 0.02)
    backward([m.float() for m in maps])
    assert all(p.grad.isfinite().all() and p.grad.dtype is torch.float32 for p in model.parameters())


def test_weights_in_half_precision_give_maps_in_half_precision(build):
    model = noisy(build()).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    for a, b in zip(model.bfloat16()(image.bfloat16()), expected, strict=True):
        assert a.dtype is torch.bfloat16 and 0 < distance(a.float(), b) < 0.2


def test_channels_last_gives_the_same_maps(build):
    model = noisy(build()).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    model.to(memory_format=torch.channels_last)
    for a, b in zip(model(image.to(memory_format=torch.channels_last)), expected, strict=True):
        assert distance(a, b) < 1e-5


def test_torch_compile_gives_the_same_maps_and_gradients(build):
    eager = noisy(build())
    compiled = copy.deepcopy(eager)
    image = torch.randn(1, 3, 45, 64)
    maps = torch.compile(compiled, backend='aot_eager', fullgraph=True)(image)
    for a, b in zip(maps, expected := eager(image), strict=True):
        assert distance(a, b) < 1e-5
    backward(maps)
    backward(expected)
    for (name, a), b in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert distance(a.grad, b.grad) < 1e-4, name


@pytest.mark.parametrize(
    'build',  # the others compile for up to minutes
    [pytest.param(*c.values, id=c.id, marks=[] if c.id in QUICK_TO_COMPILE else pytest.mark.full_size) for c in CASES],
    indirect=True,
)
def test_torch_compile_trains_on_all_sizes_with_one_program(build):
    torch._dynamo.reset()  # the recompile limit also counts programs of earlier tests
    model = build()
    model.compile(dynamic=True, backend='aot_eager')
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((64, 96), (96, 64), (128, 64), (256, 192)):  # detectors pad images to multiples of 32
            backward(model(torch.randn(2, 3, *size)))


def _ddp_worker(rank: int, port: int, models: list[nn.Module], image: Tensor, gradients: list[list[Tensor]]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    for model, expected in zip(models, gradients, strict=True):
        model = copy.deepcopy(model)  # spawn shares the memory of its arguments between processes
        parallel = DistributedDataParallel(model)
        sum(m.sin().sum() for m in parallel(image[rank : rank + 1])).backward()
        for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
            assert distance(parameter.grad, gradient) < 1e-4, f'{type(model).__name__}: {name}'
    os._exit(0)  # skip the teardown of gloo and DDP, which sometimes deadlocks


def test_ddp_averages_the_gradients_of_all_parameters(free_port):
    image, models = torch.randn(2, 3, 64, 64), [noisy(MODELS.build(case.values[0])) for case in CASES]
    gradients = []
    for model in models:
        loss = sum(m.sin().sum() for m in model(image)) / 2
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    mp.spawn(_ddp_worker, (free_port, models, image, gradients), nprocs=2)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch=None), 'must be a name or a dict'),
        (dict(arch='huge'), 'unknown arch.*known: '),
        (dict(arch=dict(dept=3)), "unknown key 'dept' in arch .did you mean 'depth"),
        (dict(arch={}), "needs 'd"),
        (dict(drop_path_rate=1.5), 'below 1'),
        (dict(drop_path_rate='0.1'), 'below 1'),
        (dict(out_indices=3), 'ascending'),
        (dict(out_indices=(0, 4)), 'from 0 to 3'),
        (dict(out_indices=(2, 1)), 'ascending'),
        (dict(out_indices=()), 'ascending'),
        (dict(out_indices=[[0, 1]]), 'ascending'),
        (dict(frozen_stages=5), 'up to 4'),
        (dict(frozen_stages='1'), "frozen_stages='1' must be -1"),
        (dict(init_cfg='model.pth'), "must be dict.type='Pretrained', checkpoint='model.pth'"),
    ],
)
def test_wrong_arguments_are_refused_with_advice(build, arguments, message):
    with pytest.raises(UserError, match=f'^{type(build()).__name__}: .*{message}'):
        build(**arguments)
