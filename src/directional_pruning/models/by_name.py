"""Build a network by its name, from this package, torchvision or timm."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from .chars import chars_net
from .digits import digits_net
from .vgg import vgg16, vgg16_bn
from .wide_resnet import wrn28x10

__all__ = ["build"]

_BUILT_IN: dict[str, Callable[[int], nn.Module]] = {
    "chars_net": chars_net,
    "digits_net": digits_net,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "wrn28x10": wrn28x10,
}


def build(name: str, num_classes: int) -> nn.Module:
    """Build a network with random weights, drawn from the global random generator.

    Args:
        name: ``vgg16``, ``vgg16_bn``, ``wrn28x10``, ``digits_net`` or ``chars_net``; ``torchvision:NAME`` or
            ``timm:NAME`` for a network of those packages. Any other name is looked up in torchvision, then in timm.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: for an unknown name.
        ModuleNotFoundError: for a network of a package that is missing or cannot be imported. The message names the
            package and the reason.

    >>> build("digits_net", 7).classifier.out_features
    7
    """
    package, _, architecture = name.rpartition(":")
    if not package and architecture in _BUILT_IN:
        return _BUILT_IN[architecture](num_classes)
    if package not in ("", "torchvision", "timm"):
        raise ValueError(f"invalid model: {name} (must be NAME, torchvision:NAME or timm:NAME)")
    import_errors: list[ModuleNotFoundError] = []
    for source in (package,) if package else ("torchvision", "timm"):
        try:
            make = _PACKAGES[source](architecture)
        except ModuleNotFoundError as error:
            import_errors.append(error)
            continue
        if make is not None:
            try:
                return make(num_classes=num_classes)
            except (RuntimeError, TypeError, ValueError) as error:  # raised by the constructors of these packages
                raise ValueError(f"invalid model: {name} ({source}: {str(error).splitlines()[0]})") from error
    if package and import_errors:
        raise import_errors[0]
    where = f"not in {package}" if package else f"there is: {', '.join(_BUILT_IN)}; and all of torchvision and timm"
    raise ValueError(f"unknown model: {name} ({'; but '.join([where, *map(str, import_errors[:1])])})")


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


_PACKAGES = {"torchvision": _torchvision, "timm": _timm}


def _import(module: str) -> Any:
    """Import a module, or raise one line with the reason.

    torchvision's wheel fails in many ways with a torch that it was not built for.
    """
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
