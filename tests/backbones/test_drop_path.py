"""Drop path has timm's distribution and computes only what is kept (inside backbones: ``test_backbones.py``)."""

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from backbones.drop_path import DropPath

DRAWS = 4000


def samples_of_timm(drop_prob: float, count: int) -> Tensor:
    module = timm.layers.DropPath(drop_prob).train()
    return torch.stack([module(torch.ones(count, 1))[:, 0] for _ in range(DRAWS)])


def our_samples(drop_prob: float, count: int) -> Tensor:
    module = DropPath(drop_prob).train()
    return torch.stack([module(torch.zeros(count, 1), torch.ones_like)[:, 0] for _ in range(DRAWS)])


@pytest.mark.parametrize(('drop_prob', 'count'), [(0.3, 4), (0.6, 2), (0.5, 1)])
def test_samples_drop_the_branch_independently_and_with_timms_distribution(drop_prob, count):
    torch.manual_seed(0)
    ours, timms = our_samples(drop_prob, count), samples_of_timm(drop_prob, count)
    for samples in (ours, timms):
        torch.testing.assert_close(samples.unique(), torch.tensor([0, 1 / (1 - drop_prob)]))
    binomial = torch.distributions.Binomial(count, torch.tensor(1 - drop_prob))
    for kept in range(count + 1):
        expected = binomial.log_prob(torch.tensor(float(kept))).exp()
        tolerance = 5 * (expected * (1 - expected) / DRAWS).sqrt()  # five standard deviations
        for samples in (ours, timms):
            assert abs((samples.gt(0).sum(1) == kept).double().mean() - expected) < tolerance
    if count > 1:
        correlations = torch.corrcoef(ours.T) - torch.eye(count)
        assert correlations.abs().max() < 5 / DRAWS**0.5
        assert torch.corrcoef(ours[:, :1].expand(-1, 2).T)[0, 1] == pytest.approx(1)  # one draw for a whole batch


def test_the_branch_computes_the_kept_samples_only_and_scales_them():
    torch.manual_seed(0)
    module, x, inputs, sizes = DropPath(0.5).train(), torch.randn(4, 3), [], set()

    def branch(samples: Tensor) -> Tensor:
        inputs.append(samples)
        return samples.cos()

    for _ in range(100):
        y = module(x, branch)
        kept = [i for i in range(4) if not torch.equal(y[i], x[i])]
        assert torch.equal(inputs.pop(), x[kept])
        torch.testing.assert_close(y[kept], x[kept] + 2 * x[kept].cos())
        sizes.add(len(kept))
    assert sizes == {0, 1, 2, 3, 4}


def test_a_branch_that_reads_the_whole_batch_gets_all_samples_and_is_dropped_as_usual():
    torch.manual_seed(0)
    module, x, sizes = DropPath(0.5, whole_batch=True).train(), torch.randn(4, 3), set()

    def branch(samples: Tensor) -> Tensor:
        assert torch.equal(samples, x)
        return samples - samples.mean(0)

    for _ in range(100):
        y = module(x, branch)
        kept = [i for i in range(4) if not torch.equal(y[i], x[i])]
        torch.testing.assert_close(y[kept], (x + 2 * branch(x))[kept])
        sizes.add(len(kept))
    assert sizes == {0, 1, 2, 3, 4}


def test_a_compiled_block_drops_samples_without_a_break_in_its_graph():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drop_path = nn.Linear(4, 4), DropPath(0.5)

        def forward(self, x):
            return self.drop_path(x, self.linear)

    torch.manual_seed(0)
    block, x = Block(), torch.randn(64, 4)
    y = torch.compile(block, backend='aot_eager', fullgraph=True)(x)
    kept = (y != x).any(1)
    assert kept.any() and not kept.all()
    torch.testing.assert_close(y[kept], x[kept] + 2 * block.linear(x[kept]))
    y.sum().backward()
    torch.testing.assert_close(block.linear.bias.grad, 2.0 * kept.sum().expand(4))
