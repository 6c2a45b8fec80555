"""Channel attention of LocalMamba and EfficientVMamba."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ChannelAttention(nn.Module):
    """Scale each channel of a map by a factor computed from the mean over all cells, ``(B, H, W, dim)`` to the same.

    ``x * sigmoid(channel_select(gelu(global_reduce(mean(norm(x))))))``, with the mean over all cells. LocalMamba's
    paper (arXiv 2403.09338, section 4.2) also describes a spatial half, which its released code leaves out.
    EfficientVMamba uses the same code as its squeeze-and-excitation. Parameter names are those of the code.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim // 8
        self.norm = nn.LayerNorm(dim)
        self.global_reduce = nn.Linear(dim, hidden)
        self.channel_select = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm(x.to(self.norm.weight.dtype)).mean((1, 2), keepdim=True)
        return x * self.channel_select(F.gelu(self.global_reduce(mean))).sigmoid()
