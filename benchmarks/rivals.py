"""Other ways to train sparse networks, written from their papers for benchmarks/frontier.py.

Each takes the weights to prune and an optimizer over them, and does its part around the optimizer's step. ``t`` is the
part of the training that is done, from 0 to 1.
"""

import math

import torch


def cubic(t, start, end, final):
    """Share of zeros at t: from 0 at ``start`` to ``final`` at ``end``, fast at first (Zhu and Gupta, 2018)."""
    left = 1 - (t - start) / (end - start)
    return final * (1 - min(max(left, 0.0), 1.0) ** 3)


def threshold(tensors, share):
    """The magnitude that this share of all elements does not exceed; below 0 where the share is none."""
    magnitudes = torch.cat([tensor.detach().abs().reshape(-1) for tensor in tensors])
    k = round(share * magnitudes.numel())
    return magnitudes.kthvalue(k).values if k else torch.tensor(-1.0)


def hard_cut(v, g):
    """v where |v| > g, else 0."""
    return torch.where(v.abs() > g, v, 0.0)


def power_cut(power):
    """v (1 - (g / |v|)^power) where |v| > g, else 0; power 1 is soft-thresholding."""
    return lambda v, g: torch.where(v.abs() > g, v * (1 - (g / v.abs().clamp_min(1e-30)) ** power), 0.0)


def root_cut(power):
    """sign(v) (|v|^power - g^power)^(1/power) where |v| > g, else 0."""
    return lambda v, g: v.sign() * (v.abs() ** power - max(float(g), 0.0) ** power).clamp_min(0) ** (1 / power)


def rescaled_soft_cut(v, g):
    """Soft-thresholding, then each row times the inverse of the part of its mean magnitude that survivors have."""
    axes = tuple(range(1, v.dim()))
    kept = torch.where(v.abs() > g, v.abs(), 0.0).mean(axes, keepdim=True)
    part = (kept + 1e-6) / (v.abs().mean(axes, keepdim=True) + 1e-6)
    return power_cut(1)(v, g) * (1.01 / (part + 0.01))


class Method:
    """The optimizer alone: the dense network."""

    def __init__(self, weights, optimizer, steps):
        self.weights, self.optimizer, self.steps, self.n = list(weights), optimizer, steps, 0

    def step(self):
        """One update of the weights from their gradients."""
        with torch.no_grad():
            self.n += 1
            self.update(self.n / self.steps)

    def update(self, t):
        """What the method does with its gradients; the n-th of N updates has t = n / N."""
        self.optimizer.step()


class Masked(Method):
    """Weights outside of a mask are zero, have no gradient, and keep no momentum."""

    def __init__(self, weights, optimizer, steps):
        super().__init__(weights, optimizer, steps)
        self.masks = [torch.ones_like(w, dtype=torch.bool) for w in self.weights]

    def masked_step(self):
        for w, mask in zip(self.weights, self.masks, strict=True):
            w.grad.mul_(mask)
        self.optimizer.step()
        self.mask_weights()

    def mask_weights(self):
        for w, mask in zip(self.weights, self.masks, strict=True):
            w.mul_(mask)
            for value in self.optimizer.state[w].values():
                if torch.is_tensor(value) and value.shape == w.shape:
                    value.mul_(mask)


class GradualMagnitude(Masked):
    """The smallest weights are pruned step by step, and stay so (Zhu and Gupta, 2018).

    Args:
        sparsity: the share of zeros at the end.
        start, end: when pruning begins and ends.
        every: updates between two cuts.
        scope: "global" ranks all weights together; "layer" prunes the same share of each.
    """

    def __init__(self, weights, optimizer, steps, *, sparsity, start=0.05, end=0.75, every=10, scope="global"):
        super().__init__(weights, optimizer, steps)
        self.sparsity, self.start, self.end, self.every, self.scope = sparsity, start, end, every, scope

    def update(self, t):
        self.masked_step()
        if self.n % self.every and self.n < self.steps:
            return
        share = cubic(t, self.start, self.end, self.sparsity)
        sets = [[w] for w in self.weights] if self.scope == "layer" else [self.weights]
        levels = {id(w): g for each in sets for g in [threshold(each, share)] for w in each}
        for w, mask in zip(self.weights, self.masks, strict=True):
            mask &= w.abs() > levels[id(w)]
        self.mask_weights()


class StraightThrough(Method):
    """Dense latent weights move by the gradient at their cut copy, which the network uses.

    ST-3 (Vanderschueren and De Vleeschouwer, 2023) is the soft cut with rescaled rows; Feather (Glentis Georgoulakis
    and others, 2023) the root cut of power 3 with a new threshold at every step, all zeros at half of the training, and
    half of the gradient on zeros above 90 % zeros.

    Args:
        cut: function of latent weights and threshold.
        sparsity, start, end, every: as of :class:`GradualMagnitude`, over all weights.
        gradient_of_zeros: factor on the gradient of the weights that are zero.
        decay: "latent": the optimizer sees the latent weights; "weights": it sees the weights, as our method does.
        forget: factor on the latent weights of zeros at each step.
    """

    def __init__(
        self,
        weights,
        optimizer,
        steps,
        *,
        cut,
        sparsity,
        start=0.05,
        end=0.75,
        every=10,
        gradient_of_zeros=1.0,
        decay="latent",
        forget=1.0,
    ):
        super().__init__(weights, optimizer, steps)
        self.latent = [w.detach().clone() for w in self.weights]
        self.cut, self.sparsity, self.start, self.end, self.every = cut, sparsity, start, end, every
        self.gradient_of_zeros, self.decay, self.forget = gradient_of_zeros, decay, forget
        self.g = torch.tensor(-1.0)

    def update(self, t):
        zeros = [w == 0 for w in self.weights]
        if self.gradient_of_zeros != 1 and self.g > 0:
            for w, zero in zip(self.weights, zeros, strict=True):
                w.grad.mul_(torch.where(zero, self.gradient_of_zeros, 1.0))
        if self.decay == "latent":
            for w, v in zip(self.weights, self.latent, strict=True):
                w.copy_(v)
        before = [w.clone() for w in self.weights]
        self.optimizer.step()
        for w, v, old, zero in zip(self.weights, self.latent, before, zeros, strict=True):
            if self.forget != 1 and self.g > 0:
                v.mul_(torch.where(zero, self.forget, 1.0))
            v.add_(w - old)
        if self.n % self.every == 0 or self.n == self.steps:
            self.g = threshold(self.latent, cubic(t, self.start, self.end, self.sparsity))
        for w, v in zip(self.weights, self.latent, strict=True):
            w.copy_(self.cut(v, self.g) if self.g > 0 else v)


class SoftThresholdReparameterization(Method):
    """Each layer learns its threshold sigmoid(s); decay of s and of the latent weights makes zeros (Kusupati, 2020).

    Args:
        optimizer: a function that makes one of parameters, since the thresholds are trained too.
        first: s at the start.
    """

    def __init__(self, weights, optimizer, steps, *, first=-6.0):
        weights = list(weights)
        self.latent = [torch.nn.Parameter(w.detach().clone()) for w in weights]
        self.s = [torch.nn.Parameter(torch.tensor(first)) for _ in weights]
        super().__init__(weights, optimizer([*self.latent, *self.s]), steps)

    def update(self, t):
        for w, v, s in zip(self.weights, self.latent, self.s, strict=True):
            g = torch.sigmoid(s)
            v.grad = torch.where(v.abs() > g, w.grad, 0.0)
            s.grad = -(v.grad * v.sign()).sum() * g * (1 - g)
        self.optimizer.step()
        for w, v, s in zip(self.weights, self.latent, self.s, strict=True):
            w.copy_(power_cut(1)(v, torch.sigmoid(s)))


class AcDc(Masked):
    """Phases with the largest weights alone and phases with all of them take turns (Peste and others, 2021).

    Args:
        sparsity: the share of zeros of the sparse phases, over all weights.
        warm: dense training before the first of them.
        phase: length of one phase.
        last: length of the sparse phase at the end.
    """

    def __init__(self, weights, optimizer, steps, *, sparsity, warm=0.1, phase=0.1, last=0.3):
        super().__init__(weights, optimizer, steps)
        self.sparsity, self.warm, self.phase, self.last, self.sparse = sparsity, warm, phase, last, False

    def is_sparse(self, t):
        """Whether the phase at t is a sparse one; the one before the last is dense."""
        if t <= self.warm:
            return False
        if t > 1 - self.last:
            return True
        if t > 1 - self.last - self.phase:
            return False
        return math.ceil((t - self.warm) / self.phase - 1e-9) % 2 == 1

    def update(self, t):
        if self.is_sparse(t) != self.sparse:
            self.sparse = not self.sparse
            g = threshold(self.weights, self.sparsity) if self.sparse else -1.0
            self.masks = [w.abs() > g for w in self.weights]
            self.mask_weights()
        self.masked_step()


class RigL(Masked):
    """A sparse network whose smallest weights are replaced by those of the largest gradients (Evci and others, 2020).

    Args:
        sparsity: the share of zeros, from the start; layers get theirs by the Erdos-Renyi rule for kernels.
        every: updates between two replacements.
        fraction: of a layer's weights, replaced at first; it falls to 0 as a cosine.
        stop: when the last replacement happens.
    """

    def __init__(self, weights, optimizer, steps, *, sparsity, every=100, fraction=0.3, stop=0.75):
        super().__init__(weights, optimizer, steps)
        self.every, self.fraction, self.stop = every, fraction, stop
        densities = erdos_renyi_kernel([tuple(w.shape) for w in self.weights], 1 - sparsity)
        for w, mask, density in zip(self.weights, self.masks, densities, strict=True):
            kept = torch.rand(w.numel()).topk(round(density * w.numel())).indices
            mask.copy_(torch.zeros(w.numel(), dtype=torch.bool).index_fill(0, kept, True).view(w.shape))
        with torch.no_grad():
            self.mask_weights()

    def update(self, t):
        if self.n % self.every or t > self.stop:
            self.masked_step()
            return
        # The gradients of all weights choose; the step of this update is left out, as in the paper.
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * t / self.stop))
        for w, mask in zip(self.weights, self.masks, strict=True):
            count = min(int(fraction * mask.sum()), int((~mask).sum()))
            flat = mask.reshape(-1).clone()
            smallest = torch.where(flat, w.reshape(-1).abs(), math.inf).topk(count, largest=False).indices
            steepest = torch.where(flat, -1.0, w.grad.reshape(-1).abs()).topk(count).indices
            flat[smallest], flat[steepest] = False, True
            new = torch.zeros_like(flat).index_fill(0, steepest, True).view(mask.shape)
            w.masked_fill_(new, 0.0)
            mask.copy_(flat.view(mask.shape))
        self.mask_weights()


def erdos_renyi_kernel(shapes, density):
    """Density of each layer, in proportion to sum(shape) / prod(shape), at most 1, with this density of the whole."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    dense = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        factor = left / sum(raw[i] * sizes[i] for i in free)
        over = {i for i in free if factor * raw[i] > 1}
        if not over:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        dense |= over
