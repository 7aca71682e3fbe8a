"""The plane through three networks: exact at its corners, orthonormal, resumable."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from directional_pruning.landscape import BezierCurve, PolygonalChain, evaluate_curve, loss_plane, straight_line

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def some_states(count=3):
    for seed in range(count):
        torch.manual_seed(seed)
        yield network().state_dict()


def some_batches():
    made = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 4, 4, generator=made), torch.randint(0, 4, (8,), generator=made)) for _ in range(2)]


def flat(state):
    names = [name for name, _ in network().named_parameters()]
    return torch.cat([state[name].double().flatten() for name in names])


def direct(state, batches):
    """Loss and error of a network whose batch norm torch itself has refreshed."""
    model = network()
    model.load_state_dict(state)
    torch.optim.swa_utils.update_bn([x for x, _ in batches], model)
    model.eval()
    pairs = [(model(x), y) for x, y in batches]
    loss = sum(float(F.cross_entropy(*pair).detach()) for pair in pairs) / len(pairs)
    return loss, sum(float((out.argmax(1) != y).float().mean()) for out, y in pairs) / len(pairs)


def test_values_at_the_three_networks_equal_direct_evaluation():
    three, batches = list(some_states()), some_batches()
    # Without a margin and on two points a side, the first network is a corner of the grid if the third is not left.
    values = loss_plane(network(), F.cross_entropy, batches, *three, size=2, margin=0.0)
    at = {(float(x), float(y)): i for i, (x, y) in enumerate(values.corners)}
    assert values.corners.shape == (3, 2)
    corners = 0
    for row, y in enumerate(values.y.tolist()):
        for column, x in enumerate(values.x.tolist()):
            loss, error = float(values.loss[row, column]), float(values.error[row, column])
            expected = direct(values.plane.point(x, y), batches)
            assert (loss, error) == (pytest.approx(expected[0], rel=1e-5), pytest.approx(expected[1], abs=1e-6))
            if (x, y) in at:
                corners += 1
                assert loss == pytest.approx(direct(three[at[x, y]], batches)[0], rel=1e-5)
    assert corners >= 2


def test_the_corners_are_the_three_networks_exactly():
    three = list(some_states())
    values = loss_plane(network(), F.cross_entropy, some_batches(), *three, size=2)
    for (x, y), state in zip(values.plane.corners, three, strict=True):
        point = values.plane.point(x, y)
        for name in state:
            torch.testing.assert_close(point[name], state[name], rtol=0, atol=1e-7)


def test_the_basis_is_orthonormal_and_distances_are_those_of_the_networks():
    three = list(some_states())
    plane = loss_plane(network(), F.cross_entropy, some_batches(), *three, size=2).plane
    origin = flat(plane.point(0, 0))
    u, v = flat(plane.point(1, 0)) - origin, flat(plane.point(0, 1)) - origin
    products = torch.tensor([float(u @ u), float(u @ v), float(v @ v)])
    torch.testing.assert_close(products, torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-5)
    corners = torch.tensor(plane.corners, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            distance = float((flat(three[i]) - flat(three[j])).norm())
            assert float((corners[i] - corners[j]).norm()) == pytest.approx(distance, rel=1e-9, abs=1e-12)
    assert corners[2, 1] > 0


def test_grid_and_margin():
    three = list(some_states())
    values = loss_plane(network(), F.cross_entropy, some_batches(), *three, size=3, margin=0.25)
    for axis, grid in enumerate((values.x, values.y)):
        low, high = values.corners[:, axis].min(), values.corners[:, axis].max()
        expected = [low - 0.25 * (high - low), (low + high) / 2, high + 0.25 * (high - low)]
        torch.testing.assert_close(grid, torch.tensor(expected, dtype=torch.float64))
    assert values.loss.shape == values.test_error.shape == (3, 3)
    assert values.test_loss.isnan().all()
    assert values.path.shape == (0, 2)


@pytest.mark.parametrize("kind", [BezierCurve, PolygonalChain])
def test_a_curve_through_the_plane_lies_on_its_path(kind):
    start, end, bend = some_states()
    curve = kind(start, end, bend)
    values = loss_plane(network(), F.cross_entropy, some_batches(), start, end, bend, size=2, curve=curve)
    torch.testing.assert_close(values.path[[0, -1]], values.corners[:2], rtol=0, atol=1e-9)
    for i in (10, 60, 95):
        t = i / (len(values.path) - 1)
        on_plane = values.plane.point(*values.path[i].tolist())
        torch.testing.assert_close(flat(on_plane), flat(curve.point(t)), rtol=0, atol=1e-6)


def test_a_curve_outside_the_plane_is_projected_orthogonally():
    start, end, bend, third = some_states(4)
    curve = BezierCurve(start, end, bend)
    values = loss_plane(network(), F.cross_entropy, some_batches(), start, end, third, size=2, curve=curve)
    point, foot = flat(curve.point(0.5)), flat(values.plane.point(*values.path[60].tolist()))
    origin = flat(values.plane.point(0, 0))
    for direction in (flat(values.plane.point(1, 0)) - origin, flat(values.plane.point(0, 1)) - origin):
        assert abs(float((point - foot) @ direction)) < 1e-5
    assert float((point - foot).norm()) > 0.1


def test_resumes_from_measured_points():
    three, seen, again = list(some_states()), [], []
    arguments = (network(), F.cross_entropy, some_batches(), *three)
    whole = loss_plane(*arguments, size=3, on_rows=lambda rows: seen.append(list(rows)))
    resumed = loss_plane(*arguments, size=3, measured=seen[4], on_rows=lambda rows: again.append(len(rows)))
    assert again == [6, 7, 8, 9]
    assert torch.equal(resumed.loss, whole.loss)
    # Along x first: the second row measured is the second of the first row.
    assert float(whole.loss[0, 1]) == seen[1][1].loss


def test_several_workers_measure_the_same_in_order_and_leave_model_and_random_numbers_alone():
    three, seen = list(some_states()), []
    model, batches = network(), some_batches()
    alone = loss_plane(model, F.cross_entropy, batches, *three, size=4)
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    together = loss_plane(
        model, F.cross_entropy, batches, *three, size=4, workers=3, on_rows=lambda rows: seen.append(len(rows))
    )
    assert torch.equal(together.loss, alone.loss)
    assert seen == list(range(1, 17))
    assert torch.equal(torch.get_rng_state(), generator)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_worker_that_fails_ends_the_measurement():
    def broken(outputs, targets):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        loss_plane(network(), broken, some_batches(), *some_states(), size=4, workers=2)


def test_curve_and_plane_agree_where_they_meet():
    start, end, bend = some_states()
    batches = some_batches()
    along = evaluate_curve(network(), F.cross_entropy, batches, straight_line(start, end), points=3)
    values = loss_plane(network(), F.cross_entropy, batches, start, end, bend, size=2, margin=0.0)
    assert float(along.loss[0]) == pytest.approx(direct(values.plane.point(0, 0), batches)[0], rel=1e-5)


def test_degenerate_triples_are_refused_in_one_line():
    start, end = some_states(2)
    middle = straight_line(start, end).bend
    arguments = (network(), F.cross_entropy, some_batches())
    line = r"^invalid third: it lies on the straight line through first and second, no plane$"
    for third in (middle, start, end):
        with pytest.raises(ValueError, match=line):
            loss_plane(*arguments, start, end, third)
    with pytest.raises(ValueError, match=r"^invalid second: it equals first, no plane$"):
        loss_plane(*arguments, start, start, end)
    nan = {
        name: torch.full_like(value, math.nan) if value.is_floating_point() else value for name, value in end.items()
    }
    with pytest.raises(ValueError, match=r"^invalid networks: a weight is not finite, no plane$"):
        loss_plane(*arguments, start, end, nan)


def test_bad_arguments_are_named():
    three = list(some_states())
    arguments = (network(), F.cross_entropy, some_batches())
    with pytest.raises(ValueError, match=r"invalid size: 1 \(must be >= 2\)"):
        loss_plane(*arguments, *three, size=1)
    with pytest.raises(ValueError, match=r"invalid margin: -0.1 \(must be >= 0\)"):
        loss_plane(*arguments, *three, margin=-0.1)
    with pytest.raises(ValueError, match=r"invalid third: entry '0\.weight' of the model is missing"):
        loss_plane(*arguments, three[0], three[1], {})
    with pytest.raises(TypeError, match="invalid test_batches: a list_iterator"):
        loss_plane(*arguments, *three, test_batches=iter([]))
