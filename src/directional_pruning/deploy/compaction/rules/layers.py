"""Layers with weights: linear, convolution, batch norm, embedding."""

from typing import Any

import torch
from torch import Tensor, nn

from ..masks import Units, positions, rectangle, tie
from ..trace import fetch
from .base import Rule, UnsupportedError
from .elementwise import Elementwise

# A channel may stand for other constants that are at most so much larger: their ratio must not cost precision.
_LARGEST_RATIO = 2.0**10


class Affine(Rule):
    """A linear layer or convolution, its weight seen as (groups, outputs, inputs, kernel)."""

    layer: Any

    def forward(self) -> list[Units]:
        self.layer = fetch(self.network, self.target)
        (units,) = self.ins
        weight, shape = self.layer.weight.detach(), self.node.meta["example"].shape
        self.dim = 1 - weight.ndim if weight.ndim > 2 else -1  # of the channels, from the right
        if any(not units.free(dim) for dim in range(-units.known.ndim, 0) if dim != self.dim):
            raise UnsupportedError
        self.groups = getattr(self.layer, "groups", 1)
        self.border = weight.ndim > 2 and self.layer.padding_mode == "zeros" and _padded(self.layer.padding)
        self.weight = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        self.sums = self.weight.sum(-1)
        self.used = (self.weight != 0).any(-1)
        known, value = self._inputs(units.known), self._inputs(units.value)
        # What a zero border changes is constant nowhere but inside.
        varies = ~known | ((value != 0) if self.border else torch.zeros_like(known))
        alive = (self.used & varies).any(-1)
        constant = (self.sums * value).sum(-1).reshape(-1)
        if self.layer.bias is not None:
            constant = constant + self.layer.bias.detach()
        mask = [1] * len(shape)
        mask[self.dim] = -1
        return [Units(tuple(shape), ~alive.reshape(mask), constant.reshape(mask))]

    def _inputs(self, mask: Tensor) -> Tensor:
        """A mask of the input as (groups, 1, inputs)."""
        return mask.reshape(-1).expand(self.groups * self.weight.shape[2]).reshape(self.groups, 1, -1)

    def backward(self) -> None:
        (units,) = self.ins
        needed = (self.used & self.out.need.reshape(self.groups, -1, 1)).any(1)
        units.require(needed.any() if units.need.numel() == 1 else needed.reshape(units.need.shape))

    def tie(self) -> None:
        if self.groups > 1:
            # Every group that stays has equally many inputs, and equally many outputs.
            (units,) = self.ins
            inside = self._inputs(units.keep)[:, 0].clone()
            outside = self.out.keep.reshape(self.groups, -1)
            tie([inside, outside], inner=True)
            self.out.keep |= rectangle(outside).reshape(self.out.keep.shape)
            if units.keep.numel() > 1:
                units.keep |= rectangle(inside).reshape(units.keep.shape)
            elif units.shape[self.dim] > 1:
                self.out.keep.fill_(True)

    def settle(self) -> bool:
        """Under a zero border one constant channel must carry those that go; whether one had to be kept for it."""
        (units,) = self.ins
        if not self.border or units.keep.numel() == 1:
            return False
        value, dropped, usable = self._constants()
        lost = torch.einsum("goik,gi->gok", self.weight, torch.where(dropped, value, 0.0)) != 0
        lost &= self.out.need.reshape(self.groups, -1, 1)
        lost = lost.flatten(1).any(1) & ~usable.any(1)
        if lost.any():
            largest = torch.zeros_like(dropped)
            largest[torch.arange(self.groups), torch.where(dropped, value.abs(), 0.0).argmax(1)] = True
            units.keep |= (largest & lost.unsqueeze(1)).reshape(units.keep.shape)
        return bool(lost.any())

    def _constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per (group, input): its constant, whether that goes, and whether the channel stays and can carry others."""
        (units,) = self.ins
        known, value, keep = (self._inputs(mask)[:, 0] for mask in (units.known, units.value, units.keep))
        dropped = known & ~keep & (value != 0)
        largest = torch.where(dropped, value.abs(), 0.0).amax(1, keepdim=True)
        return value, dropped, known & keep & (value != 0) & (value.abs() * _LARGEST_RATIO >= largest)

    def rewrite(self) -> None:
        value, dropped, usable = self._constants()
        weight, bias, layer = self.weight.clone(), self.layer.bias, self.layer
        gone = torch.where(dropped, value, 0.0)
        if self.border:
            # The same sum at every position, borders included: dropped channels are multiples of the carrier.
            carrier = torch.where(usable, value.abs(), 0.0).argmax(1)
            group = torch.arange(self.groups)
            lost = torch.einsum("goik,gi->gok", weight, gone)
            scale = torch.where(usable.any(1), value[group, carrier], 1.0)
            weight[group, :, carrier] += torch.where(usable.any(1)[:, None, None], lost / scale[:, None, None], 0.0)
        else:
            shift = (self.sums * gone.unsqueeze(1)).sum(-1).reshape(-1)
            if bias is not None or bool(shift[self.out.keep.reshape(-1)].any()):
                old = torch.zeros_like(shift) if bias is None else bias.detach()
                bias = nn.Parameter(old + shift, layer.weight.requires_grad if bias is None else bias.requires_grad)
        inside, outside = self._inputs(self.ins[0].keep)[:, 0], self.out.keep.reshape(self.groups, -1)
        if inside.all() and outside.all():
            layer.bias = bias
            return
        stay = outside.any(1)
        weight = weight[stay][outside[stay]].reshape(int(stay.sum()), -1, *weight.shape[2:])
        inside = inside[stay]
        weight = torch.stack([w[:, i] for w, i in zip(weight, inside)]).flatten(0, 1)
        weight = weight.reshape(*weight.shape[:2], *layer.weight.shape[2:])
        inputs, outputs = int(inside.sum()), weight.shape[0]
        layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
        layer.bias = None if bias is None else nn.Parameter(bias.detach()[outside.reshape(-1)], bias.requires_grad)
        if isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = inputs, outputs
        else:
            layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, int(stay.sum())


def _padded(padding: Any) -> bool:
    return padding == "same" if isinstance(padding, str) else any(padding)


class BatchNorm(Elementwise):
    """Batch norm in evaluation mode that no layer could take in: a scale and a shift for each channel."""

    layer: Any

    def forward(self) -> list[Units]:
        self.layer = fetch(self.network, self.target)
        (units,), shape = self.ins, self.node.meta["example"].shape
        if self.layer.running_mean is None or any(not units.free(d) for d in range(len(shape)) if d != 1):
            raise UnsupportedError
        mask = [-1 if dim == 1 else 1 for dim in range(len(shape))]
        scale = (self.layer.running_var + self.layer.eps).rsqrt()
        if self.layer.weight is not None:
            scale = scale * self.layer.weight.detach()
        shift = -self.layer.running_mean * scale
        if self.layer.bias is not None:
            shift = shift + self.layer.bias.detach()
        self.scale = scale.reshape(mask)
        return [Units(tuple(shape), units.known | (self.scale == 0), self.scale * units.value + shift.reshape(mask))]

    def rewrite(self) -> None:
        if self.out.sliced:
            index = positions(self.out.keep).reshape(-1)
            for name in ("weight", "bias", "running_mean", "running_var"):
                old = getattr(self.layer, name)
                if isinstance(old, nn.Parameter):
                    setattr(self.layer, name, nn.Parameter(old.detach()[index], old.requires_grad))
                elif old is not None:
                    setattr(self.layer, name, old[index])
            self.layer.num_features = len(index)


class Embedding(Rule):
    """A table of vectors: a column is constant where all of its entries are the same."""

    layer: Any

    def forward(self) -> list[Units]:
        self.layer = fetch(self.network, self.target)
        weight, shape = self.layer.weight.detach(), self.node.meta["example"].shape
        if self.layer.max_norm is not None:
            raise UnsupportedError
        mask = [1] * (len(shape) - 1) + [-1]
        same = (weight == weight[:1]).all(0)
        return [Units(tuple(shape), same.reshape(mask), weight[0].reshape(mask))]

    def backward(self) -> None:
        pass

    def tie(self) -> None:
        pass

    def rewrite(self) -> None:
        if self.out.sliced:
            old = self.layer.weight
            self.layer.weight = nn.Parameter(old.detach()[:, positions(self.out.keep).reshape(-1)], old.requires_grad)
            self.layer.embedding_dim = self.layer.weight.shape[1]
