"""Two problems whose curvature is known exactly: least squares, and the digits on a small network."""

import math
from collections.abc import Iterator
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..data import digits
from ..landscape import hessian_product
from ..progress import Progress

__all__ = ["DigitsNetwork", "LeastSquares"]


class LeastSquares:
    """``|X (w - minimiser) - residual|^2 / 2n`` with given curvatures, and flat directions of curvature zero."""

    samples = 64

    def __init__(self, seed: int, d: int = 40, rank: int = 12) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        draw = {"generator": self.generator, "dtype": torch.float64}
        left, _ = torch.linalg.qr(torch.randn(self.samples, rank + 1, **draw))
        right, _ = torch.linalg.qr(torch.randn(d, rank, **draw))
        self.curvature, self.vectors = torch.linspace(0.2, 1, rank, dtype=torch.float64), right.T
        # So that X'X / n has these eigenvalues.
        self.x = self.samples**0.5 * (left[:, :rank] * self.curvature.sqrt()) @ right.T
        w = torch.randn(d, **draw)
        self.minimiser = w.sign() * (1 + w.abs())
        self.residual = self.samples**0.5 * left[:, rank]  # orthogonal to the columns of X

    def gradient(self, w: Tensor, batch: Tensor) -> Tensor:
        """The gradient of the mean loss over the samples with these indices."""
        x = self.x[batch]
        return x.T @ (x @ (w - self.minimiser) - self.residual[batch]) / len(batch)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Indices of samples, shuffled in every epoch, without end."""
        while True:
            yield from torch.randperm(self.samples, generator=self.generator).split(size)


class DigitsNetwork:
    """The training images of the digits and a network with one hidden layer, as functions of flat weights."""

    rate = 0.1

    def __init__(self, seed: int, hidden: int) -> None:
        data = digits().train
        self.seed, self.x, self.y = seed, data.images.double().flatten(1), data.labels
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).double()

    def loss(self, w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy at flat weights."""
        parameters = dict(self.network.named_parameters())
        pieces = zip(parameters.items(), w.split([p.numel() for p in parameters.values()]), strict=True)
        state = {name: piece.view_as(p) for (name, p), piece in pieces}
        return F.cross_entropy(functional_call(self.network, state, (inputs,)), labels)

    def full_loss(self, w: Tensor) -> float:
        """The mean loss over all training images."""
        return float(self.loss(w, self.x, self.y))

    def gradient(self, w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The gradient of the mean loss over a batch."""
        w = w.detach().requires_grad_()
        return torch.autograd.grad(self.loss(w, *batch), w)[0]

    def batches(self, first_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of 64, shuffled in every epoch, without end."""
        for epoch in count(first_epoch):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            for part in torch.randperm(len(self.y), generator=generator).split(64):
                yield self.x[part], self.y[part]

    def train(self, epochs: int, on_progress: Progress) -> Tensor:
        """The flat weights after plain SGD."""
        w = nn.utils.parameters_to_vector(self.network.parameters()).detach()
        steps = epochs * math.ceil(len(self.y) / 64)
        for n, batch in enumerate(islice(self.batches(0), steps), start=1):
            w = w - self.rate * self.gradient(w, batch)
            on_progress("digits: training with SGD", n, steps)
        return w

    def spectrum(self, w: Tensor, on_progress: Progress) -> tuple[Tensor, Tensor]:
        """All eigenvalues of the exact Hessian, in ascending order, and their eigenvectors, as rows."""
        nn.utils.vector_to_parameters(w, self.network.parameters())
        product = hessian_product(self.network, F.cross_entropy, [(self.x, self.y)])
        rows = []
        for i, unit in enumerate(torch.eye(len(w), dtype=w.dtype), start=1):
            rows.append(product(unit))
            on_progress("digits: exact Hessian", i, len(w))
        hessian = torch.stack(rows)
        curvature, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
        return curvature, vectors.T
