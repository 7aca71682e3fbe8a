"""A small convolutional network for 8 x 8 images of handwritten digits."""

from torch import nn

__all__ = ["digits_net"]


def digits_net(num_classes: int = 10) -> nn.Sequential:
    """Three 3 x 3 convolutions (32, 64, 128 channels) with batch norm and ReLU, then a linear classifier.

    Input ``(n, 1, 8, 8)``, output logits ``(n, num_classes)``; 94,186 parameters for ten classes. The convolutions
    have no bias because batch norm would cancel it. Initialised as torch does, from the global random generator.

    >>> sum(p.numel() for p in digits_net().parameters())
    94186
    """

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )
