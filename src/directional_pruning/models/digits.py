"""A small convolutional network for 8 x 8 images of handwritten digits."""

from collections import OrderedDict

from torch import nn

__all__ = ["digits_net"]


def digits_net(num_classes: int = 10) -> nn.Sequential:
    """Three 3 x 3 convolutions (32, 64, 128 channels) with batch norm and ReLU, then a linear classifier.

    Input ``(n, 1, 8, 8)``, output logits ``(n, num_classes)``; 94,186 parameters for ten classes. The convolutions
    have no bias because batch norm would cancel it. They have torch's initialisation, from the global random generator.

    >>> sum(p.numel() for p in digits_net().parameters())
    94186
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (channels_in, channels_out) in enumerate(((1, 32), (32, 64), (64, 128)), start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        layers[f"norm{i}"] = nn.BatchNorm2d(channels_out)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2) if i < 3 else nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(128, num_classes)
    return nn.Sequential(layers)
