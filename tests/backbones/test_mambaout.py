"""MambaOut against timm's, and as a part of training programs."""

import copy
import os
from collections.abc import Callable

import pytest
import timm
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backbones import MambaOut, UserError
from backbones.mambaout import ARCHS

SMALL = dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 96))  # for what does not depend on the size


def noisy(module: nn.Module) -> nn.Module:
    """Move biases, norms and layer scales away from 0 and 1, where errors in them would not show."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def backward(maps: tuple[Tensor, ...]) -> None:
    """Back-propagate a loss in which every cell of every map weighs differently."""
    torch.manual_seed(1)
    sum((m * torch.randn(m.shape)).sum() for m in maps).backward()


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the scale of ``b``."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize('arch', ARCHS)
def test_maps_and_gradients_are_timms(arch):
    ours = noisy(MambaOut(arch, out_norm=False))
    timms = timm.create_model(f'mambaout_{arch}', features_only=True)
    to_timm = {
        name: name.replace('stages.', 'stages_', 1) for name in ours.state_dict()
    }  # how features_only joins names
    timms.load_state_dict({to_timm[name]: value for name, value in ours.state_dict().items()}, strict=True)

    image = torch.randn(1, 3, 333, 500)
    with torch.no_grad():
        for a, b in zip(ours(image), timms(image), strict=True):
            assert distance(a, b.permute(0, 3, 1, 2)) < 1e-5

    image = torch.randn(2, 3, 37, 70)
    backward(ours(image))
    backward([m.permute(0, 3, 1, 2) for m in timms(image)])
    gradients = {name: parameter.grad for name, parameter in timms.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert distance(parameter.grad, gradients[to_timm[name]]) < 1e-4, name


@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 97), (5, 224)])
def test_four_maps_at_strides_4_to_32_for_any_size(size):
    maps = MambaOut(SMALL)(torch.randn(2, 3, *size))
    expected = [
        (2, dim, -(-size[0] // s), -(-size[1] // s)) for dim, s in zip(SMALL['dims'], (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected


def test_output_norm_is_a_layer_norm_over_channels_of_each_map():
    normed = noisy(MambaOut(SMALL)).eval()
    bare = MambaOut(SMALL, out_norm=False).eval()
    bare.load_state_dict({k: v for k, v in normed.state_dict().items() if not k.startswith('out_norms.')})
    image = torch.randn(1, 3, 64, 96)
    for i, (a, b) in enumerate(zip(normed(image), bare(image), strict=True)):
        mean, variance = b.mean(1, keepdim=True), b.var(1, keepdim=True, unbiased=False)
        weight, bias = (p.view(1, -1, 1, 1) for p in normed.out_norms[str(i)].parameters())
        torch.testing.assert_close(a, (b - mean) / (variance + 1e-6).sqrt() * weight + bias)


def test_out_indices_pick_maps_and_leave_no_parameter_without_gradient():
    torch.manual_seed(0)
    whole, part = noisy(MambaOut(SMALL)), MambaOut(SMALL, out_indices=(0, 2))
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(part(image), whole(image)[::2], strict=True):
        torch.testing.assert_close(a, b)
    backward(part(image))
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_stages_get_no_gradient_and_no_drop_path(frozen):
    model = MambaOut(SMALL, drop_path_rate=0.5, frozen_stages=frozen).train()
    expected = {0: ['stem'], 1: ['stem', 'stages.0'], 3: ['stem', 'stages.0', 'stages.1', 'stages.2']}.get(frozen, [])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(f'{prefix}.' for prefix in expected)), name
    assert {
        name for name in ('stem', *(f'stages.{i}' for i in range(4))) if not model.get_submodule(name).training
    } == set(expected)


def test_drop_path_grows_from_zero_to_its_rate_as_in_timm():
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in MambaOut('tiny', drop_path_rate=0.3).stages
        for block in stage.blocks
    ]
    timms = timm.create_model('mambaout_tiny', drop_path_rate=0.3)
    assert rates == [getattr(block.drop_path, 'drop_prob', 0.0) for stage in timms.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3)


def test_activation_checkpointing_changes_neither_maps_nor_gradients():
    plain = noisy(MambaOut(SMALL, drop_path_rate=0.5)).train()
    saving = MambaOut(SMALL, drop_path_rate=0.5, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(4, 3, 64, 64)
    for model in (plain, saving):
        torch.manual_seed(2)  # the drop path draws the same
        backward(model(image))
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_fp32_and_trains(dtype):
    model = noisy(MambaOut(SMALL))
    image = torch.randn(1, 3, 64, 96)
    with torch.autocast('cpu', dtype):
        maps = model(image)
    for a, b in zip(maps, model(image), strict=True):
        assert distance(a.float(), b) < (0.1 if dtype is torch.bfloat16 else 0.02)
    backward([m.float() for m in maps])
    assert all(p.grad.isfinite().all() and p.grad.dtype is torch.float32 for p in model.parameters())


def test_channels_last_gives_the_same_maps():
    model = noisy(MambaOut(SMALL)).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    model.to(memory_format=torch.channels_last)
    for a, b in zip(model(image.to(memory_format=torch.channels_last)), expected, strict=True):
        assert distance(a, b) < 1e-5


def test_torch_compile_gives_the_same_maps_and_gradients():
    eager = noisy(MambaOut(SMALL))
    compiled = copy.deepcopy(eager)
    image = torch.randn(1, 3, 45, 64)
    forward = torch.compile(compiled, backend='aot_eager', fullgraph=True)
    for a, b in zip(forward(image), eager(image), strict=True):
        assert distance(a, b) < 1e-5
    backward(forward(image))
    backward(eager(image))
    for (name, a), b in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert distance(a.grad, b.grad) < 1e-4, name


def test_torch_compile_needs_few_programs_for_all_sizes():
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        compiled.append(graph)
        return graph.forward

    model = MambaOut(SMALL)
    model.compile(dynamic=True, backend=backend)
    for size in ((64, 96), (96, 64), (70, 75), (128, 44), (256, 200), (65, 300)):
        model(torch.randn(2, 3, *size))
    assert len(compiled) == 1


def _ddp_worker(rank: int, port: int, model: nn.Module, image: Tensor, gradients: dict[str, Tensor]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = copy.deepcopy(model)  # what spawn hands over shares its memory with the other process
    parallel = DistributedDataParallel(model)
    sum(m.sin().sum() for m in parallel(image[rank : rank + 1])).backward()
    for name, parameter in model.named_parameters():
        assert distance(parameter.grad, gradients[name]) < 1e-4, name
    os._exit(0)  # without tearing gloo and DDP down, whose threads now and then wait for each other for ever


def test_ddp_averages_the_gradients_of_all_parameters(free_port):
    image = torch.randn(2, 3, 64, 64)
    model = noisy(MambaOut(SMALL))
    (sum(m.sin().sum() for m in model(image)) / 2).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    mp.spawn(_ddp_worker, (free_port, model, image, gradients), nprocs=2)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='mambaout_tiny'), "did you mean 'tiny'"),
        (dict(arch='huge'), 'known: femto, kobe, tiny'),
        (dict(arch=dict(depths=(1, 1), dims=(8, 8), dept=3)), "unknown key 'dept' in arch .did you mean 'depths'"),
        (dict(arch=dict(dims=(8, 8))), "needs 'depths'"),
        (dict(arch=dict(depths=(1,), dims=(8, 8))), 'must name the same stages'),
        (dict(arch=dict(SMALL, act='relu')), 'not one of gelu, silu'),
        (dict(arch=dict(SMALL, conv_ratio=3)), 'at most expansion_ratio'),
        (dict(arch=None), 'must be a name or a dict'),
        (dict(arch=dict(SMALL, kernel_size=4)), 'odd and positive'),
        (dict(drop_path_rate=1.5), 'below 1'),
        (dict(out_indices=3), 'ascending'),
        (dict(out_indices=(0, 4)), 'from 0 to 3'),
        (dict(out_indices=(2, 1)), 'ascending'),
        (dict(out_indices=()), 'ascending'),
        (dict(frozen_stages=5), 'up to 4'),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_right(kwargs, message):
    with pytest.raises(UserError, match=message):
        MambaOut(**kwargs)
