"""The paper's experiments (section 4) as recipes, and variants with momentum, weight decay and a cosine."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..data import Splits, cifar10, cifar100, photos
from ..landscape import path_threshold
from ..training import constant_schedule, cosine_schedule, drop_schedule
from .recipe import Dataset, Recipe

__all__ = [
    "resnet50_imagenet_fixed_recipe",
    "resnet50_imagenet_modern_recipe",
    "resnet50_imagenet_recipe",
    "vgg16_cifar10_modern_recipe",
    "vgg16_cifar10_recipe",
    "wrn28x10_cifar10_modern_recipe",
    "wrn28x10_cifar10_recipe",
    "wrn28x10_cifar100_modern_recipe",
    "wrn28x10_cifar100_recipe",
]

_VGG_SETTINGS = ((0.0005, 0.4), (0.0005, 0.51), (0.0005, 0.6), (0.0005, 0.7))
_WRN_SETTINGS = ((0.001, 0.501), (0.001, 0.55), (0.001, 0.6), (0.001, 0.65))
_IMAGENET_SETTINGS = ((0.005, 0.501), (0.005, 0.51), (0.005, 0.55), (0.005, 0.6), (0.005, 0.65), (0.005, 0.7))
_IMAGENET_FIXED_SETTINGS = ((0.005, 0.501), (0.005, 0.51), (0.005, 0.55), (0.01, 0.4))

_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def _options(recipe: Recipe) -> dict[str, Any]:
    """Options that all loaders of images take."""
    return {
        "folder": recipe.data or None,
        "mean": recipe.mean,
        "std": recipe.std,
        "validation": 0 if recipe.paper_protocol else None,
        "samples": recipe.samples,
    }


def _load_cifar(load: Callable[..., Splits], device: torch.device, recipe: Recipe) -> Splits:
    if recipe.workers:
        raise ValueError(f"invalid workers: {recipe.workers} (CIFAR is held on the device: nothing is decoded)")
    return load(device, **_options(recipe))


def _load_imagenet(device: torch.device, recipe: Recipe) -> Splits:
    return photos(device, classes=recipe.num_classes, workers=recipe.workers, **_options(recipe))


_CROPPED = "random crops of 32 from 4 pixels of padding and random flips; pixels in [0, 1]"
_DOWNLOADED = "$DIRPRUNE_DATA, or else the original archive, downloaded once"
_CIFAR10 = Dataset(partial(_load_cifar, cifar10), f"CIFAR-10, {_CROPPED}", _DOWNLOADED, files=True)
_CIFAR100 = Dataset(partial(_load_cifar, cifar100), f"CIFAR-100, {_CROPPED}", _DOWNLOADED, files=True)
_IMAGENET = Dataset(
    _load_imagenet,
    "ImageNet or other photographs, random resized crops of 224 and random flips; pixels in [0, 1]",
    "$DIRPRUNE_DATA; nothing is downloaded",
    files=True,
)


def vgg16_cifar10_recipe() -> Recipe:
    """VGG16 without batch norm: 90.86 % test accuracy at 90.5 % zeros in the paper."""
    return Recipe(
        name="vgg16-cifar10",
        summary="the paper's VGG16 on CIFAR-10, 600 epochs",
        dataset=_CIFAR10,
        model="vgg16",
        num_classes=10,
        epochs=600,
        batch_size=128,
        lr=0.1,
        c=0.0005,
        mu=0.6,
        precision="auto",
        skip=(),
        settings=_VGG_SETTINGS,
        channels_last=True,
        **_IMAGENET_STATISTICS,
    )


def wrn28x10_cifar10_recipe() -> Recipe:
    """WRN-28-10: 94.43 % test accuracy at 94.7 % zeros in the paper."""
    return Recipe(
        name="wrn28x10-cifar10",
        summary="the paper's WRN-28-10 on CIFAR-10, 200 epochs",
        dataset=_CIFAR10,
        model="wrn28x10",
        num_classes=10,
        epochs=200,
        batch_size=128,
        lr=0.1,
        c=0.001,
        mu=0.55,
        precision="auto",
        skip=(),
        settings=_WRN_SETTINGS,
        channels_last=True,
        **_CIFAR_STATISTICS,
    )


def wrn28x10_cifar100_recipe() -> Recipe:
    """WRN-28-10 on a hundred classes: 77.00 % test accuracy at 90.2 % zeros in the paper."""
    return replace(
        wrn28x10_cifar10_recipe(),
        name="wrn28x10-cifar100",
        summary="the paper's WRN-28-10 on CIFAR-100, 200 epochs",
        dataset=_CIFAR100,
        num_classes=100,
    )


def resnet50_imagenet_recipe() -> Recipe:
    """ResNet-50 whose rate drops once: 73.24 % test accuracy at 91.6 % zeros in the paper."""
    return Recipe(
        name="resnet50-imagenet",
        summary="the paper's ResNet-50 on ImageNet, 150 epochs, the rate a tenth from epoch 140 on",
        dataset=_IMAGENET,
        model="torchvision:resnet50",
        num_classes=1000,
        epochs=150,
        batch_size=256,
        lr=0.1,
        c=0.005,
        mu=0.55,
        precision="auto",
        workers=8,
        skip=(),
        schedule=drop_schedule,
        settings=_IMAGENET_SETTINGS,
        channels_last=True,
        **_IMAGENET_STATISTICS,
    )


def resnet50_imagenet_fixed_recipe() -> Recipe:
    """ResNet-50 at one rate throughout (Figure 3 of the paper)."""
    return replace(
        resnet50_imagenet_recipe(),
        name="resnet50-imagenet-fixed",
        summary="the paper's ResNet-50 on ImageNet, 147 epochs at one rate",
        epochs=147,
        mu=0.51,
        schedule=constant_schedule,
        settings=_IMAGENET_FIXED_SETTINGS,
    )


def _warm_cosine(epoch: int, epochs: int) -> float:
    """Rises in equal steps over five epochs to 1 and falls along half a cosine towards 0."""
    return cosine_schedule(epoch, epochs, warmup=5)


def _modern(base: Recipe, summary: str, weight_decay: float = 5e-4, **changes: Any) -> Recipe:
    """A recipe of the paper with momentum, weight decay, label smoothing and a cosine; norms and biases stay dense."""
    modern = replace(
        base,
        name=f"{base.name}-modern",
        summary=summary,
        momentum=0.9,
        label_smoothing=0.1,
        skip=("norm", "bias"),
        schedule=_warm_cosine,
        settings=(),
        weight_decay=weight_decay,
        **changes,
    )
    # Under a cosine the threshold grows less. With this c it ends at the value that the paper's schedule gives.
    growth, modern_growth = (path_threshold(_rates(recipe), 1, recipe.mu) for recipe in (base, modern))
    return replace(modern, c=float(f"{base.c * growth / modern_growth:.2g}"))


def _rates(recipe: Recipe) -> list[float]:
    """The learning rate of each epoch over the first one's."""
    return [recipe.schedule(epoch, recipe.epochs) for epoch in range(recipe.epochs)]


def vgg16_cifar10_modern_recipe() -> Recipe:
    """VGG16 with batch norm, momentum, weight decay, label smoothing and a cosine."""
    summary = "VGG16 with batch norm on CIFAR-10 under a modern recipe, 200 epochs"
    return _modern(vgg16_cifar10_recipe(), summary, model="vgg16_bn", epochs=200)


def wrn28x10_cifar10_modern_recipe() -> Recipe:
    """WRN-28-10 with momentum, weight decay, label smoothing and a cosine."""
    return _modern(wrn28x10_cifar10_recipe(), "WRN-28-10 on CIFAR-10 under a modern recipe, 200 epochs")


def wrn28x10_cifar100_modern_recipe() -> Recipe:
    """WRN-28-10 on a hundred classes with momentum, weight decay, label smoothing and a cosine."""
    return _modern(wrn28x10_cifar100_recipe(), "WRN-28-10 on CIFAR-100 under a modern recipe, 200 epochs")


def resnet50_imagenet_modern_recipe() -> Recipe:
    """ResNet-50 with momentum, weight decay, label smoothing and a cosine."""
    summary = "ResNet-50 on ImageNet under a modern recipe, 100 epochs"
    return _modern(resnet50_imagenet_recipe(), summary, epochs=100, weight_decay=1e-4)
