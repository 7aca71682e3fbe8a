"""A network by its name: ours, torchvision's or timm's."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from .chars import chars_net
from .digits import digits_net
from .vgg import vgg16, vgg16_bn
from .wide_resnet import wrn28x10

__all__ = ["build"]

_OURS: dict[str, Callable[[int], nn.Module]] = {
    "chars_net": chars_net,
    "digits_net": digits_net,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "wrn28x10": wrn28x10,
}


def build(name: str, num_classes: int) -> nn.Module:
    """A network with random weights from the global random generator.

    Args:
        name: ``vgg16``, ``vgg16_bn``, ``wrn28x10``, ``digits_net`` or ``chars_net``; ``torchvision:NAME`` or
            ``timm:NAME`` for a network of theirs; any other name is looked for there, in this order.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: for a name nobody knows.
        ModuleNotFoundError: for a network of a package that is missing or cannot be imported, saying which and why.

    >>> build("digits_net", 7).classifier.out_features
    7
    """
    package, _, own = name.rpartition(":")
    if not package and own in _OURS:
        return _OURS[own](num_classes)
    if package not in ("", "torchvision", "timm"):
        raise ValueError(f"invalid model: {name} (must be NAME, torchvision:NAME or timm:NAME)")
    troubles: list[ModuleNotFoundError] = []
    for source in (package,) if package else ("torchvision", "timm"):
        try:
            make = _FOREIGN[source](own)
        except ModuleNotFoundError as error:
            troubles.append(error)
            continue
        if make is not None:
            try:
                return make(num_classes=num_classes)
            except (RuntimeError, TypeError, ValueError) as error:  # whatever their constructors refuse
                raise ValueError(f"invalid model: {name} ({source}: {str(error).splitlines()[0]})") from error
    if package and troubles:
        raise troubles[0]
    where = f"not in {package}" if package else f"there is: {', '.join(_OURS)}; and all of torchvision and timm"
    raise ValueError(f"unknown model: {name} ({'; but '.join([where, *map(str, troubles[:1])])})")


def _torchvision(name: str) -> Callable[..., nn.Module] | None:
    models = _import("torchvision.models")
    if name not in models.list_models(module=models):
        return None
    return lambda num_classes: models.get_model(name, weights=None, num_classes=num_classes)


def _timm(name: str) -> Callable[..., nn.Module] | None:
    timm = _import("timm")
    if not timm.is_model(name):
        return None
    return lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes)


_FOREIGN = {"torchvision": _torchvision, "timm": _timm}


def _import(module: str) -> Any:
    """The module, or one line on why there is none: torchvision's wheel fails in many ways beside another torch."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"networks of {package} need it installed: pip install 'directional-pruning[vision]'"
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModuleNotFoundError(
            f"{package} is installed but cannot be imported ({reason}): pip install a torchvision built for this torch"
        ) from error
