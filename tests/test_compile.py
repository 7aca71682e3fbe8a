"""A training step under torch.compile: the network is compiled, the optimizer's step runs as it is."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from directional_pruning import GRDA, Directional

OPTIMIZERS = {
    "GRDA": lambda params: GRDA(params, lr=0.1, c=1.0, mu=0.6, momentum=0.9),
    "Directional": lambda params: Directional(AdamW(params, lr=0.1), c=1.0, mu=0.6),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_training_step_gives_the_eager_numbers(make):
    torch._dynamo.reset()
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = make(model.parameters())
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)

        def train(inputs, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().mean()
            loss.backward()
            optimizer.step()

        # This backend runs the captured graphs with torch's own operations: no C++ compiler, the same rounding.
        step = torch.compile(train, backend="aot_eager") if compiled else train
        inputs = torch.Generator().manual_seed(1)
        for _ in range(10):
            step(torch.randn(5, 6, generator=inputs))
            scheduler.step()
        runs.append(list(model.parameters()))
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert any((p == 0).any() for p in runs[1])
