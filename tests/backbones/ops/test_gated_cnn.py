"""All implementations of the gated CNN block compute the same function, and the fused ones need less memory.

Without a GPU, Triton's kernels run in its interpreter, see ``tests/conftest.py``.
"""

from collections.abc import Callable

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from backbones import MambaOut, UserError
from backbones.mambaout import Arch, GatedCNNBlock
from backbones.ops import gated_cnn, gated_cnn_tiled

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SHAPES = {  # of the input, and of the block
    'gelu, as in the paper': ((1, 9, 5, 24), {}),
    'silu, wide': ((2, 3, 3, 16), dict(act='silu', expansion_ratio=3.0, conv_ratio=1.5)),
    'smaller kernel, all convolved': ((1, 4, 9, 12), dict(conv_ratio=8 / 3, kernel_size=3)),
    'one cell': ((3, 1, 1, 8), {}),
}


def blocks(settings: dict, dim: int, *implementations: str) -> list[GatedCNNBlock]:
    """Blocks with several implementations and the same random weights, biases and norms included."""
    arch = Arch((1,), (dim,), **settings)
    made = [GatedCNNBlock(dim, arch, implementation=name).to(DEVICE) for name in implementations]
    torch.manual_seed(0)
    for name, parameter in made[0].named_parameters():
        nn.init.normal_(parameter, 1.0 if name == 'norm.weight' else 0.0, 0.3)
    for block in made[1:]:
        block.load_state_dict(made[0].state_dict())
    return made


def outputs(block: GatedCNNBlock, x: Tensor) -> dict[str, Tensor]:
    """The block's output, and the gradients of its input and parameters."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    y = block(x)
    torch.manual_seed(1)
    y.backward(torch.randn_like(y))
    return dict(output=y, input=x.grad) | {name: p.grad for name, p in block.named_parameters()}


def assert_same(block: GatedCNNBlock, reference: GatedCNNBlock, x: Tensor, tolerance: float) -> None:
    expected = outputs(reference, x)
    for name, value in outputs(block, x).items():
        assert value.dtype == expected[name].dtype and value.shape == expected[name].shape, name
        assert (value - expected[name]).abs().max() <= tolerance * expected[name].abs().max(), name


@pytest.mark.parametrize('cache_bytes', [2**22, 2**11], ids=['one tile', 'several tiles'])
@pytest.mark.parametrize('shape', SHAPES)
def test_the_fused_operator_equals_the_eager_block(shape, cache_bytes, monkeypatch):
    monkeypatch.setattr(gated_cnn_tiled, 'CACHE_BYTES', cache_bytes)
    size, settings = SHAPES[shape]
    reference, fused = blocks(settings, size[-1], 'eager', 'fused')
    assert_same(fused, reference, torch.randn(size, device=DEVICE), 1e-5)
    assert_same(fused.double(), reference.double(), torch.randn(size, dtype=torch.double, device=DEVICE), 1e-12)
    with torch.no_grad():
        for dtype, tolerance in ((torch.double, 1e-12), (torch.float, 1e-5)):
            x = torch.randn(size, dtype=dtype, device=DEVICE)
            y, expected = fused.to(dtype)(x), reference.to(dtype)(x)
            assert (y - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_errors_are_no_larger_than_those_of_the_eager_block(dtype):
    reference, block = blocks({}, 16, 'eager', 'fused')
    x = torch.randn(1, 5, 6, 16, device=DEVICE)
    exact = outputs(reference, x)
    with torch.autocast(DEVICE, dtype):
        rough, ours = outputs(reference, x), outputs(block, x)
    for name, value in exact.items():
        scale = value.abs().max()
        errors = [((result[name] - value).abs().max() / scale).item() for result in (ours, rough)]
        assert ours[name].dtype == rough[name].dtype, name
        assert errors[0] < 2 * errors[1] + torch.finfo(dtype).eps, (name, errors)


@pytest.mark.parametrize('implementation', ['fused', 'triton'])
def test_opcheck_accepts_the_operator(implementation):
    """The schema, the gradient and the fake kernel are right, so torch.compile can rely on them."""
    (block,) = blocks({}, 8, implementation)
    parameters = [p for layer in (block.norm, block.fc1, block.conv, block.fc2) for p in (layer.weight, layer.bias)]
    x = torch.randn(1, 3, 2, 8, device=DEVICE, requires_grad=True)
    for save in (True, False):
        tests = ('test_schema', 'test_autograd_registration', 'test_faketensor')
        arguments = (x, *parameters, 1e-6, 'GELU', torch.float, implementation == 'triton', save)
        torch.library.opcheck(gated_cnn.fused, arguments, test_utils=tests)
    torch.library.opcheck(gated_cnn.fused, (*arguments[:-1], True), test_utils='test_aot_dispatch_dynamic')


def test_the_fake_backward_kernel_returns_the_real_shapes_dtypes_and_strides():
    """A compiler relies on them for the code that follows."""
    (block,) = blocks({}, 16, 'triton')
    parameters = [p for layer in (block.norm, block.fc1, block.conv, block.fc2) for p in (layer.weight, layer.bias)]
    norm_weight, norm_bias, fc1_weight, _, conv_weight, conv_bias, fc2_weight, _ = parameters
    x = torch.randn(2, 3, 5, 16, device=DEVICE)
    branch, gi, c = gated_cnn.fused(x, *parameters, 1e-6, 'GELU', torch.float, True, True)
    weights = norm_weight, norm_bias, fc1_weight, conv_weight, conv_bias, fc2_weight
    arguments = (branch, x, gi, c, *weights, 1e-6, 'GELU', True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = gated_cnn.fused_backward(*arguments)
    for real, fake in zip(gated_cnn.fused_backward(*arguments), fakes, strict=True):
        assert (real.shape, real.dtype, real.is_contiguous()) == (fake.shape, fake.dtype, fake.is_contiguous())


def test_the_norm_gets_tensors_of_one_dtype_when_the_input_is_in_half_precision(monkeypatch):
    """In timm's sizes, convolutions pass on such inputs. CUDA's kernels require one dtype; a CPU's do not."""
    seen = []

    def strict(function: Callable) -> Callable:
        def call(x: Tensor, shape: tuple, weight: Tensor, bias: Tensor, eps: float) -> object:
            seen.append({x.dtype, weight.dtype, bias.dtype})
            return function(x, shape, weight, bias, eps)

        return call

    monkeypatch.setattr(nn.functional, 'layer_norm', strict(nn.functional.layer_norm))
    monkeypatch.setattr(torch, 'native_layer_norm', strict(torch.native_layer_norm))
    (block,) = blocks({}, 16, 'fused')
    x = torch.randn(1, 4, 4, 16, device=DEVICE).bfloat16().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        block(x).float().sum().backward()
    assert seen == [{torch.float}, {torch.float}] and x.grad.dtype == torch.bfloat16


class NoGradient(torch.autograd.Function):
    """The identity, with no gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> None:
        return None


@pytest.mark.parametrize('implementation', ['eager', 'fused'])
def test_a_later_function_may_have_no_gradient(implementation):
    (block,) = blocks({}, 8, implementation)
    x = torch.randn(1, 3, 3, 8, device=DEVICE, requires_grad=True)
    (NoGradient.apply(block(x)).sum() + x.sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x)) and block.fc1.weight.grad is None


def test_second_derivatives_are_refused_by_the_operator_and_computed_by_the_eager_block():
    for implementation in ('eager', 'fused'):
        (block,) = blocks({}, 8, implementation)
        x = torch.randn(1, 3, 3, 8, device=DEVICE, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
        if implementation == 'fused':
            with pytest.raises(RuntimeError, match="no second derivatives; gated_cnn='eager' has them"):
                gradient.square().sum().backward()
        else:
            gradient.square().sum().backward()
            assert block.fc1.weight.grad.abs().sum() > 0


def test_gradients_by_torch_func_equal_the_eager_blocks():
    reference, fused = blocks({}, 8, 'eager', 'fused')
    x = torch.randn(1, 3, 3, 8, device=DEVICE)
    expected, ours = (
        torch.func.grad(lambda x, block=block: block(x).square().sum())(x) for block in (reference, fused)
    )
    torch.testing.assert_close(ours, expected)


def test_an_exported_model_has_pytorchs_operators_only():
    (block,) = blocks({}, 8, 'fused')
    x = torch.randn(1, 3, 3, 8, device=DEVICE)
    program = torch.export.export(block.eval(), (x,))
    assert not any('mambaout' in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), block(x))


def test_a_frozen_block_saves_nothing_for_the_backward_pass():
    (block,) = blocks({}, 8, 'fused')
    block.requires_grad_(False)
    assert saved_bytes(block, torch.randn(1, 8, 8, 8, device=DEVICE)) == 0


@pytest.mark.parametrize('implementation', ['fused', 'triton'])
def test_empty_batches_and_meta_tensors_work(implementation):
    (block,) = blocks({}, 8, implementation)
    x = torch.zeros(0, 4, 4, 8, device=DEVICE, requires_grad=True)
    block(x).sum().backward()
    assert x.grad.shape == x.shape and block.fc1.weight.grad.abs().sum() == 0
    assert block.to('meta')(x.to('meta')).shape == x.shape


def test_the_choice_of_an_implementation_compiles():
    choose = torch.compile(
        lambda x: x + len(gated_cnn.implementation_on(torch.device('cuda'), 'auto')), fullgraph=True, backend='eager'
    )
    assert choose(torch.zeros(())) == len('eager')


def test_the_operators_operations_are_counted_like_the_eager_blocks():
    reference, block = blocks({}, 16, 'eager', 'fused')
    counts = []
    for model in (reference, block):
        for gradients in (True, False):
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradients):
                model(torch.randn(1, 6, 5, 16, device=DEVICE))
            counts.append(counter.get_total_flops())
    assert counts[0] > 0 and len(set(counts)) == 1


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass saves for the backward pass, without parameters."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = model(x)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    del maps  # until now the graph has kept its storages from being reused
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_a_model_saves_less_than_half_as_much_as_timms(arch):
    x = torch.randn(1, 3, 160, 256)
    assert saved_bytes(MambaOut(arch), x) <= 0.45 * saved_bytes(
        timm.create_model(f'mambaout_{arch}', features_only=True), x
    )


def test_implementations_that_are_unknown_or_need_another_device_are_refused(monkeypatch):
    with pytest.raises(UserError, match="gated_cnn='fast' is unknown; known: 'auto': 'eager' on CUDA"):
        MambaOut('femto', gated_cnn='fast')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(UserError, match="gated_cnn='triton' needs CUDA"):
        MambaOut('femto', gated_cnn='triton')(torch.randn(1, 3, 32, 32))


def test_the_log_names_the_implementation(tmp_path):
    MMLogger.get_instance('test_implementation', log_file=str(tmp_path / 'log'))
    MambaOut('femto').init_weights()
    assert "MambaOut: blocks are computed as 'fused': one operator" in (tmp_path / 'log').read_text()
