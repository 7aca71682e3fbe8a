"""VGG16 for images of 32 x 32 pixels: the paper's network without batch norm, and a variant with it."""

from torch import Tensor, nn

__all__ = ["VGG", "vgg16", "vgg16_bn"]

_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


class VGG(nn.Module):
    """Thirteen 3 x 3 convolutions with ReLU, five max poolings, and three linear layers, two of them after dropout."""

    def __init__(self, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            # N(0, 2 / fan-out), He et al. 2015.
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # pyrefly: ignore
            layers += [convolution, *([nn.BatchNorm2d(width)] if batch_norm else []), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(n, 3, 32, 32)`` -> logits ``(n, num_classes)``."""
        return self.classifier(self.features(x).flatten(1))


def vgg16(num_classes: int = 10) -> VGG:
    """The VGG16 of the paper, without batch norm: 15,245,130 parameters for ten classes.

    Convolutions start from N(0, 2 / (9 * out_channels)) with zero bias; linear layers have torch's initialisation. The
    classifier is the one commonly used for small images. Source: K. Simonyan, A. Zisserman, Very Deep Convolutional
    Networks for Large-Scale Image Recognition, ICLR 2015.

    >>> sum(p.numel() for p in vgg16().parameters())
    15245130
    """
    return VGG(num_classes, batch_norm=False)


def vgg16_bn(num_classes: int = 10) -> VGG:
    """VGG16 with batch norm after every convolution: 15,253,578 parameters for ten classes.

    >>> sum(p.numel() for p in vgg16_bn().parameters())
    15253578
    """
    return VGG(num_classes, batch_norm=True)
