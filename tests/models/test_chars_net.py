"""The transformer over characters."""

import pytest
import torch

from directional_pruning.data import chars
from directional_pruning.models import chars_net


def test_a_prediction_depends_only_on_earlier_characters():
    torch.manual_seed(0)
    net = chars_net().eval()
    characters = torch.randint(96, (2, 64), generator=torch.Generator().manual_seed(0))
    changed = characters.clone()
    changed[:, 40] = (changed[:, 40] + 1) % 96
    with torch.no_grad():
        before, after = net(characters), net(changed)
    assert before.shape == (2, 96, 64)
    torch.testing.assert_close(before[..., :40], after[..., :40])
    assert (before[..., 40:] - after[..., 40:]).abs().amax((0, 1)).min() > 1e-5


def test_the_network_has_its_documented_size_and_starts_near_chance():
    torch.manual_seed(0)
    net = chars_net()
    matrices = [p.numel() for name, p in net.blocks.named_parameters() if p.ndim == 2]
    assert sum(matrices) == 3 * 12 * 64**2
    inputs, targets = next(chars().validation.batches(16))
    loss = torch.nn.functional.cross_entropy(net(inputs), targets)
    assert loss.item() == pytest.approx(torch.tensor(96.0).log().item(), abs=0.6)
