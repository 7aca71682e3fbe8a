"""Wide residual networks for images of 32 x 32 pixels."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WideResNet", "wrn28x10"]


class _Block(nn.Module):
    """Twice norm, ReLU, 3 x 3 convolution, added to the block's input; the second convolution has the stride."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        same_shape = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(channels_in, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(out))) + self.shortcut(x)


class WideResNet(nn.Module):
    """Three stages of ``(depth - 4) / 6`` blocks, 16, 32 and 64 times ``widen`` channels, pooling and a classifier."""

    def __init__(self, num_classes: int, *, depth: int, widen: int) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 4, 6)
        if remainder or blocks < 1:
            raise ValueError(f"invalid depth: {depth} (must be 6 n + 4)")
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        stages, channels = [], 16
        for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            first = _Block(channels, width, stride)
            stages.append(nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1))))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels, momentum=0.9)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(n, 3, 32, 32)`` -> logits ``(n, num_classes)``."""
        out = F.relu(self.norm(self.stages(self.conv(x))))
        return self.classifier(out.mean((2, 3)))


def wrn28x10(num_classes: int = 10) -> WideResNet:
    """The WRN-28-10 of the paper: 36,489,290 parameters for ten classes, 36,546,980 for a hundred.

    Differences from the original network: convolutions and shortcuts have biases. A shortcut takes the block's input
    instead of its activation. The stride is on a block's second convolution. The last norm has momentum 0.9. There is
    no dropout, and every layer has torch's initialisation. Source: S. Zagoruyko, N. Komodakis, Wide Residual Networks,
    BMVC 2016.

    >>> sum(p.numel() for p in wrn28x10(100).parameters())
    36546980
    """
    return WideResNet(num_classes, depth=28, widen=10)
