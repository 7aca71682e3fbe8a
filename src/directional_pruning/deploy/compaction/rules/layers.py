"""Layers with weights: linear, convolution, batch norm, embedding."""

from typing import Any

import torch
from torch import Tensor, nn

from ..graph import fetch
from ..masks import ChannelMasks, align, make_rectangular, positions
from .base import Rule, UnsupportedError
from .elementwise import Elementwise

# A carrier's constant may be smaller than another by this factor at most: their ratio must not cost precision.
_LARGEST_RATIO = 2.0**10


class Affine(Rule):
    """A linear layer or convolution, its weight seen as (groups, outputs, inputs, kernel).

    The constants of removed inputs go into the bias. Where a convolution pads with zeros, a bias would be wrong at the
    border. There one constant channel remains, the carrier, and its kernel takes in those of the others.
    """

    layer: Any

    def find_constants(self) -> list[ChannelMasks]:
        self.layer = fetch(self.network, self.target)
        (masks,) = self.inputs
        weight, shape = self.layer.weight.detach(), self.node.meta["example"].shape
        self.channel_dim = 1 - weight.ndim if weight.ndim > 2 else -1  # from the right
        if any(not masks.is_broadcast(dim) for dim in range(-masks.constant.ndim, 0) if dim != self.channel_dim):
            raise UnsupportedError
        self.groups = getattr(self.layer, "groups", 1)
        self.zero_border = weight.ndim > 2 and self.layer.padding_mode == "zeros" and _padded(self.layer.padding)
        self.weight = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        self.kernel_sums = self.weight.sum(-1)
        self.nonzero = (self.weight != 0).any(-1)
        constant, value = self._by_group(masks.constant), self._by_group(masks.value)
        # At a zero border the output differs from the inside, unless the constant is zero.
        varies = ~constant | (value != 0) if self.zero_border else ~constant
        output_varies = (self.nonzero & varies.unsqueeze(1)).any(-1)
        output_value = (self.kernel_sums * value.unsqueeze(1)).sum(-1).reshape(-1)
        if self.layer.bias is not None:
            output_value = output_value + self.layer.bias.detach()
        size = [1] * len(shape)
        size[self.channel_dim] = -1
        return [ChannelMasks(tuple(shape), ~output_varies.reshape(size), output_value.reshape(size))]

    def _by_group(self, mask: Tensor) -> Tensor:
        """A mask of the input as (groups, inputs)."""
        return mask.reshape(-1).expand(self.groups * self.weight.shape[2]).reshape(self.groups, -1)

    def find_needed(self) -> None:
        (masks,) = self.inputs
        needed = (self.nonzero & self.output.needed.reshape(self.groups, -1, 1)).any(1)
        masks.mark_needed(needed.any() if masks.needed.numel() == 1 else needed.reshape(masks.needed.shape))

    def propagate(self) -> None:
        if self.groups > 1:
            # Every group that remains has equally many inputs, and equally many outputs.
            (masks,) = self.inputs
            inputs = self._by_group(masks.remaining).clone()
            outputs = self.output.remaining.reshape(self.groups, -1)
            align([inputs, outputs], skip_last=True)
            self.output.remaining |= make_rectangular(outputs).reshape(self.output.remaining.shape)
            if masks.remaining.numel() > 1:
                masks.remaining |= make_rectangular(inputs).reshape(masks.remaining.shape)
            elif masks.shape[self.channel_dim] > 1:
                self.output.remaining.fill_(True)

    def fix_conflicts(self) -> bool:
        """Keep the largest constant of a group as its carrier, where a zero border needs one and none remains."""
        (masks,) = self.inputs
        if not self.zero_border or masks.remaining.numel() == 1:
            return False
        removed, can_carry = self._removed_constants()
        lost = torch.einsum("goik,gi->gok", self.weight, removed) != 0
        lost &= self.output.needed.reshape(self.groups, -1, 1)
        needs_carrier = lost.flatten(1).any(1) & ~can_carry.any(1)
        if needs_carrier.any():
            largest = torch.zeros_like(can_carry)
            largest[torch.arange(self.groups), removed.abs().argmax(1)] = True
            masks.remaining |= (largest & needs_carrier.unsqueeze(1)).reshape(masks.remaining.shape)
        return bool(needs_carrier.any())

    def _removed_constants(self) -> tuple[Tensor, Tensor]:
        """By (group, input): the constant if the channel is removed, else 0; whether the channel can be a carrier."""
        (masks,) = self.inputs
        constant, value, remaining = map(self._by_group, (masks.constant, masks.value, masks.remaining))
        nonzero = constant & (value != 0)
        removed = torch.where(nonzero & ~remaining, value, 0.0)
        largest = removed.abs().amax(1, keepdim=True)
        return removed, nonzero & remaining & (value.abs() * _LARGEST_RATIO >= largest)

    def rewrite(self) -> None:
        weight, bias = self._with_removed_constants()
        inputs = self._by_group(self.inputs[0].remaining)
        outputs = self.output.remaining.reshape(self.groups, -1)
        layer = self.layer
        if inputs.all() and outputs.all():
            layer.bias = bias
            return
        groups = outputs.any(1)
        weight = weight[groups][outputs[groups]].reshape(int(groups.sum()), -1, *weight.shape[2:])
        inputs = inputs[groups]
        weight = torch.stack([w[:, i] for w, i in zip(weight, inputs)]).flatten(0, 1)
        weight = weight.reshape(*weight.shape[:2], *layer.weight.shape[2:])
        layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
        layer.bias = None if bias is None else nn.Parameter(bias.detach()[outputs.reshape(-1)], bias.requires_grad)
        if isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = int(inputs.sum()), len(weight)
        else:
            layer.in_channels, layer.out_channels, layer.groups = int(inputs.sum()), len(weight), int(groups.sum())

    def _with_removed_constants(self) -> tuple[Tensor, nn.Parameter | None]:
        """Weight and bias after they have taken in the constants of the inputs that are removed."""
        weight, bias = self.weight.clone(), self.layer.bias
        removed, can_carry = self._removed_constants()
        if self.zero_border:
            # The same sum at every position, the border included: a removed channel is a multiple of the carrier.
            value, group = self._by_group(self.inputs[0].value), torch.arange(self.groups)
            carrier = torch.where(can_carry, value.abs(), 0.0).argmax(1)
            has_carrier = can_carry.any(1)
            lost = torch.einsum("goik,gi->gok", weight, removed)
            scale = torch.where(has_carrier, value[group, carrier], 1.0)
            weight[group, :, carrier] += torch.where(has_carrier[:, None, None], lost / scale[:, None, None], 0.0)
            return weight, bias
        shift = (self.kernel_sums * removed.unsqueeze(1)).sum(-1).reshape(-1)
        if bias is not None or bool(shift[self.output.remaining.reshape(-1)].any()):
            old = torch.zeros_like(shift) if bias is None else bias.detach()
            trained = self.layer.weight.requires_grad if bias is None else bias.requires_grad
            bias = nn.Parameter(old + shift, trained)
        return weight, bias


def _padded(padding: Any) -> bool:
    return padding == "same" if isinstance(padding, str) else any(padding)


class BatchNorm(Elementwise):
    """Batch norm in evaluation mode that no layer could take in: a scale and a shift for each channel."""

    layer: Any

    def find_constants(self) -> list[ChannelMasks]:
        self.layer = fetch(self.network, self.target)
        (masks,), shape = self.inputs, self.node.meta["example"].shape
        if self.layer.running_mean is None or any(not masks.is_broadcast(d) for d in range(len(shape)) if d != 1):
            raise UnsupportedError
        size = [-1 if dim == 1 else 1 for dim in range(len(shape))]
        scale = (self.layer.running_var + self.layer.eps).rsqrt()
        if self.layer.weight is not None:
            scale = scale * self.layer.weight.detach()
        shift = -self.layer.running_mean * scale
        if self.layer.bias is not None:
            shift = shift + self.layer.bias.detach()
        scale, shift = scale.reshape(size), shift.reshape(size)
        return [ChannelMasks(tuple(shape), masks.constant | (scale == 0), scale * masks.value + shift)]

    def rewrite(self) -> None:
        if self.output.shrinks:
            index = positions(self.output.remaining).reshape(-1)
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

    def find_constants(self) -> list[ChannelMasks]:
        self.layer = fetch(self.network, self.target)
        weight, shape = self.layer.weight.detach(), self.node.meta["example"].shape
        if self.layer.max_norm is not None:
            raise UnsupportedError
        size = [1] * (len(shape) - 1) + [-1]
        constant = (weight == weight[:1]).all(0)
        return [ChannelMasks(tuple(shape), constant.reshape(size), weight[0].reshape(size))]

    def rewrite(self) -> None:
        if self.output.shrinks:
            old, index = self.layer.weight, positions(self.output.remaining).reshape(-1)
            self.layer.weight = nn.Parameter(old.detach()[:, index], old.requires_grad)
            self.layer.embedding_dim = len(index)
