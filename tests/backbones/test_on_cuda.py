"""Every backbone gives the same results on a GPU as on a CPU. These tests are skipped without a GPU."""

import pytest
import torch
from mmengine.registry import MODELS

from tests.backbones.conftest import backward, distance, noisy
from tests.backbones.test_backbones import CASES as ON_ANY_DEVICE
from tests.backbones.test_backbones import PYRAMID

TRITON = dict(type='MambaOut', arch=PYRAMID, gated_cnn='triton')  # 'auto' is 'eager' on CUDA
CASES = [*ON_ANY_DEVICE, pytest.param(TRITON, id='MambaOut triton')]
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')


@pytest.fixture(autouse=True)
def exact_products():
    """Turn TF32 off, because it rounds the inputs of matrix products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize('size', [(64, 96), (33, 50)])
@pytest.mark.parametrize('cfg', CASES)
def test_maps_and_gradients_equal_those_on_a_cpu(cfg, size):
    torch.manual_seed(0)
    on_cpu = noisy(MODELS.build({key: value for key, value in cfg.items() if key != 'gated_cnn'})).train()
    on_cuda = MODELS.build(cfg).cuda().train()
    on_cuda.load_state_dict(on_cpu.state_dict())
    images = torch.randn(2, 3, *size)
    expected, maps = on_cpu(images), [m.cpu() for m in on_cuda(images.cuda())]
    for ours, reference in zip(maps, expected, strict=True):
        assert distance(ours, reference) < 1e-4
    backward(expected)
    backward(maps)
    for (name, ours), reference in zip(on_cuda.named_parameters(), on_cpu.parameters(), strict=True):
        assert distance(ours.grad.cpu(), reference.grad) < 1e-3, name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('cfg', CASES)
def test_under_autocast_maps_stay_close_and_gradients_are_finite(cfg, dtype):
    torch.manual_seed(0)
    model = noisy(MODELS.build(cfg)).cuda().train()
    images = torch.randn(2, 3, 64, 96, device='cuda')
    with torch.no_grad():
        single = model(images)
    with torch.autocast('cuda', dtype):
        maps = model(images)
    for half, reference in zip(maps, single, strict=True):
        assert half.isfinite().all() and 0 < distance(half.float(), reference) < 0.1
    backward([m.float().cpu() for m in maps])
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('cfg', CASES)
def test_a_compiled_backbone_gives_the_same_maps(cfg):
    torch.manual_seed(0)
    model = noisy(MODELS.build(cfg)).cuda().eval()
    images = torch.randn(1, 3, 64, 96, device='cuda')
    with torch.no_grad():
        expected, maps = model(images), torch.compile(model)(images)
    for ours, reference in zip(maps, expected, strict=True):
        assert distance(ours, reference) < 1e-4


@pytest.mark.parametrize('implementation', ['eager', 'fused', 'triton'])
def test_mambaout_runs_its_triton_kernels_only_when_asked_to(implementation):
    torch.manual_seed(0)
    model = MODELS.build(dict(type='MambaOut', arch='femto', gated_cnn=implementation)).cuda()
    with torch.profiler.profile() as profiler:
        model(torch.randn(1, 3, 64, 64, device='cuda'))
        torch.cuda.synchronize()
    names = [event.key for event in profiler.key_averages()]
    assert any('_gate_kernel' in name for name in names) == (implementation == 'triton')
