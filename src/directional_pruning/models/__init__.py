"""Network architectures, and building one by its name."""

from .by_name import build
from .chars import CharTransformer, chars_net
from .digits import digits_net
from .vgg import VGG, vgg16, vgg16_bn
from .wide_resnet import WideResNet, wrn28x10

__all__ = ["VGG", "CharTransformer", "WideResNet", "build", "chars_net", "digits_net", "vgg16", "vgg16_bn", "wrn28x10"]
