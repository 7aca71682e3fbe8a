"""Curves between two networks: exact at the ends, right in between, on any architecture, resumable to the bit."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from directional_pruning.files import CorruptFileError
from directional_pruning.landscape import BezierCurve, PolygonalChain, evaluate_curve, fit_curve, straight_line
from directional_pruning.landscape.curve import Curve

pytestmark = pytest.mark.usefixtures("one_thread")


KINDS = [BezierCurve, PolygonalChain]


class Residual(nn.Module):
    """A convolution with batch norm around which the input passes."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + F.relu(self.norm(self.conv(x)))


class Transformer(nn.Module):
    """Token scores (n, vocabulary, length) with the embedding tied to the head, dropout and a counter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.tensor(3))

    def forward(self, tokens):
        return self.head(self.block(self.embedding(tokens))).transpose(1, 2)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Residual(4), nn.Flatten(), nn.Linear(64, 5)
    )


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 5))


NETWORKS = {"convolutional": convolutional, "plain": plain, "transformer": Transformer}


def batches_for(name, count=3):
    made = torch.Generator().manual_seed(7)
    if name == "transformer":
        tokens = torch.randint(0, 11, (count, 6, 9), generator=made)
        return [(x[:, :-1], x[:, 1:]) for x in tokens]
    images = torch.randn(count, 8, 1, 4, 4, generator=made)
    return [(x, torch.randint(0, 5, (8,), generator=made)) for x in images]


def trained(name, seed, steps=20):
    """A network a few steps from its random start, so that its running statistics are not the initial ones."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        inputs, targets = batches_for(name)[step % 3]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


def states(name):
    return copy.deepcopy(trained(name, 0).state_dict()), copy.deepcopy(trained(name, 1).state_dict())


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, [m.training for m in model.modules()]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ends_of_a_fitted_curve_are_the_two_networks(name, kind):
    first, second = trained(name, 0), trained(name, 1)
    model, batches = NETWORKS[name](), batches_for(name)
    before, losses = snapshot(model), []
    curve = fit_curve(
        model,
        F.cross_entropy,
        batches,
        first.state_dict(),
        second.state_dict(),
        kind=kind,
        epochs=2,
        on_progress=lambda task, done, total, record: losses.append((task, done, total, record["loss"])),
    )
    assert isinstance(curve, kind)
    assert isinstance(curve, Curve)
    assert [each[:3] for each in losses] == [("training the bend", 1, 2), ("training the bend", 2, 2)]
    assert all(math.isfinite(loss) for *_, loss in losses)
    # The bend was trained, and nothing else.
    middle = straight_line(first.state_dict(), second.state_dict()).bend
    assert any(not torch.equal(curve.bend[key], middle[key]) for key in curve.bend)
    after = snapshot(model)
    assert same(before[0], after[0])
    assert before[1] == after[1]
    inputs, _ = batches[0]
    for t, network in ((0, first), (1, second)):
        model.load_state_dict({**network.state_dict(), **curve.point(t)})
        model.eval()
        torch.testing.assert_close(model(inputs), network(inputs), rtol=0, atol=1e-6)


def test_points_follow_the_formulas():
    made = torch.Generator().manual_seed(0)
    a, b, c = ({"w": torch.randn(7, dtype=torch.float64, generator=made)} for _ in range(3))
    for t in (0.0, 0.1, 0.5, 0.8, 1.0):
        bezier = (1 - t) ** 2 * a["w"] + 2 * t * (1 - t) * b["w"] + t**2 * c["w"]
        chain = torch.lerp(a["w"], b["w"], 2 * t) if t <= 0.5 else torch.lerp(b["w"], c["w"], 2 * t - 1)
        torch.testing.assert_close(BezierCurve(a, c, b).point(t)["w"], bezier)
        torch.testing.assert_close(PolygonalChain(a, c, b).point(t)["w"], chain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bend_on_the_line_half_way_gives_the_straight_line(kind):
    start, end = states("convolutional")
    line = kind(start, end, straight_line(start, end).bend)
    for t in (0.0, 0.3, 0.5, 0.9, 1.0):
        point = line.point(t)
        for key, value in point.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, torch.lerp(start[key], end[key], t), rtol=1e-5, atol=1e-6)
    values = evaluate_curve(convolutional(), F.cross_entropy, batches_for("convolutional"), line, points=5)
    names = [key for key, _ in convolutional().named_parameters()]
    distance = math.sqrt(sum(float((start[key].double() - end[key].double()).square().sum()) for key in names))
    torch.testing.assert_close(values.length, distance * values.t, rtol=1e-6, atol=0)


def test_a_bend_elsewhere_on_the_line_gives_points_of_the_line():
    start, end, bend = ({"w": torch.tensor([x, 2 * x])} for x in (0.0, 1.0, 0.2))
    for t in (0.2, 0.5, 0.7):
        w = BezierCurve(start, end, bend).point(t)["w"]
        assert float(w[1]) == pytest.approx(2 * float(w[0]))


@pytest.mark.parametrize("name", ["plain", "transformer"])
def test_values_are_those_of_the_network_evaluated_by_hand(name):
    start, end = states(name)
    model, batches = NETWORKS[name](), batches_for(name)
    values = evaluate_curve(
        model, F.cross_entropy, batches[:2], straight_line(start, end), points=3, test_batches=batches
    )
    line = straight_line(start, end)
    for i, t in enumerate((0.0, 0.5, 1.0)):
        hand = NETWORKS[name]().eval()
        hand.load_state_dict({**hand.state_dict(), **line.point(t)})
        for loss, error, data in (
            (values.loss, values.error, batches[:2]),
            (values.test_loss, values.test_error, batches),
        ):
            pairs = [(hand(x), y) for x, y in data]
            expected = sum(float(F.cross_entropy(*pair).detach()) for pair in pairs) / len(pairs)
            wrong = sum(float((out.argmax(1) != y).float().mean()) for out, y in pairs) / len(pairs)
            assert float(loss[i]) == pytest.approx(expected, rel=1e-6)
            assert float(error[i]) == pytest.approx(wrong, abs=1e-6)


def test_batch_norm_is_refreshed_at_every_point_as_torch_does_it():
    start, end = states("convolutional")
    batches, line = batches_for("convolutional"), straight_line(start, end)
    # Statistics that a curve inherits must not matter.
    spoilt = BezierCurve(*({k: v + 5 if "running" in k else v for k, v in s.items()} for s in (start, end, line.bend)))
    model = convolutional()
    values = evaluate_curve(model, F.cross_entropy, batches, spoilt, points=3)
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    for i, t in enumerate((0.0, 0.5, 1.0)):
        hand = convolutional()
        hand.load_state_dict(line.point(t))
        torch.optim.swa_utils.update_bn([x for x, _ in batches], hand)
        hand.eval()
        expected = sum(float(F.cross_entropy(hand(x), y).detach()) for x, y in batches) / 3
        assert float(values.loss[i]) == pytest.approx(expected, rel=1e-5)


def test_tied_weights_stay_tied_and_either_name_is_enough():
    start, end = states("transformer")
    data = batches_for("transformer")
    one_name = {key: value for key, value in end.items() if key != "head.weight"}
    assert same(
        fit_curve(Transformer(), F.cross_entropy, data, start, one_name, epochs=1).bend,
        fit_curve(Transformer(), F.cross_entropy, data, start, end, epochs=1).bend,
    )
    untied = {**end, "head.weight": end["head.weight"] + 1}
    with pytest.raises(
        ValueError, match=r"invalid end: embedding.weight and head.weight differ \(the model ties them\)"
    ):
        fit_curve(Transformer(), F.cross_entropy, data, start, untied, epochs=1)


def test_a_fitted_curve_is_lower_than_the_line_where_there_is_a_barrier():
    # |w| x with w in the plane: the same function on the whole circle, and 0 in the middle between opposite points.
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.w.norm() * x

    data = [(torch.ones(4, 1), torch.ones(4, 1))] * 20
    start, end = {"w": torch.tensor([1.0, 0.05])}, {"w": torch.tensor([-1.0, 0.05])}
    curve = fit_curve(Norm(), F.mse_loss, data, start, end, epochs=10, lr=0.1)
    fitted, line = (evaluate_curve(Norm(), F.mse_loss, data[:1], c) for c in (curve, straight_line(start, end)))
    assert len(fitted.loss) == 61
    assert float(line.loss.max()) > 0.9
    assert float(fitted.loss.max()) < 0.1
    assert float(fitted.length[-1]) > 1.2 * float(line.length[-1])
    assert fitted.error.isnan().all()  # no classes, no error
    assert fitted.test_loss.isnan().all()


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_stopped_in_the_middle_and_resumed_gives_the_same_bits(tmp_path, name):
    start, end = states(name)
    arguments = (NETWORKS[name](), F.cross_entropy, lambda epoch: reversed(batches_for(name)[epoch % 2 :]), start, end)
    whole = fit_curve(*arguments, epochs=4)

    def stop(task, done, total, record):
        if done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "bend.pt"
    with pytest.raises(KeyboardInterrupt):
        fit_curve(*arguments, epochs=4, checkpoint=path, on_progress=stop)
    torch.rand(5)  # the caller's generator has moved on
    seen = []
    resumed = fit_curve(
        *arguments, epochs=4, checkpoint=path, on_progress=lambda task, done, total, record: seen.append(done)
    )
    assert seen == [3, 4]
    assert same(resumed.bend, whole.bend)
    assert same(fit_curve(*arguments, epochs=4, checkpoint=path).bend, whole.bend)  # nothing left to do

    with pytest.raises(
        ValueError, match=r"invalid checkpoint: .*bend.pt \(it is of a curve with other ends or settings"
    ):
        fit_curve(*arguments, epochs=4, lr=0.01, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match=r"bend\.pt is not a readable checkpoint of a curve"):
        fit_curve(*arguments, epochs=4, checkpoint=path)


def test_the_callers_random_numbers_are_untouched():
    start, end = states("transformer")
    data = batches_for("transformer")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    curve = fit_curve(Transformer(), F.cross_entropy, data, start, end, epochs=1)
    model = trained("transformer", 0)  # draws too: before the seed
    torch.manual_seed(0)
    evaluate_curve(model, F.cross_entropy, data, curve, points=2)
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_resumes_from_measured_points():
    start, end = states("convolutional")
    arguments = (convolutional(), F.cross_entropy, batches_for("convolutional"), straight_line(start, end))
    seen = []
    whole = evaluate_curve(*arguments, points=5, on_rows=lambda rows: seen.append(list(rows)))
    assert [len(rows) for rows in seen] == [1, 2, 3, 4, 5]
    again = []
    resumed = evaluate_curve(*arguments, points=5, measured=seen[2], on_rows=lambda rows: again.append(len(rows)))
    assert again == [4, 5]
    torch.testing.assert_close(resumed.loss, whole.loss, rtol=0, atol=0)
    assert evaluate_curve(*arguments, points=5, measured=[(9.0,) * 4] * 5).loss.tolist() == [9.0] * 5


def test_what_is_not_finite_on_the_curve_is_reported_and_the_ends_are_not_spoilt():
    start, end = states("plain")
    bend = {key: torch.full_like(value, math.nan) for key, value in start.items()}
    values = evaluate_curve(plain(), F.cross_entropy, batches_for("plain"), BezierCurve(start, end, bend), points=5)
    assert values.loss.isnan().tolist() == values.error.isnan().tolist() == [False, True, True, True, False]
    with pytest.raises(ArithmeticError, match=r"the loss along the curve is nan in epoch 1: a smaller lr may help"):
        fit_curve(plain(), F.cross_entropy, batches_for("plain"), start, bend, epochs=1)


def test_bfloat16_autocast_computes_in_bfloat16_and_keeps_the_bend_in_float32():
    start, end = states("convolutional")
    seen = []

    def loss_fn(outputs, targets):
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    arguments = (convolutional(), loss_fn, batches_for("convolutional"))
    curve = fit_curve(*arguments, start, end, epochs=1, autocast=torch.bfloat16)
    assert {value.dtype for value in curve.bend.values()} == {torch.float32, torch.int64}
    low = evaluate_curve(*arguments, curve, points=3, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    high = evaluate_curve(*arguments, curve, points=3)
    assert torch.equal(low.length, high.length)
    torch.testing.assert_close(low.loss, high.loss, rtol=0.05, atol=0.02)
    assert not torch.equal(low.loss, high.loss)


def test_inputs_may_be_tensors_by_name_and_outputs_may_carry_logits():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Named(nn.Linear):
        def forward(self, left, right):
            return Output(super().forward(left + right))

    torch.manual_seed(0)
    one, other = Named(3, 2).state_dict(), Named(3, 2).state_dict()
    data = [({"left": torch.randn(5, 3), "right": torch.randn(5, 3)}, torch.tensor([0, 1, 0, 1, 1]))]
    curve = fit_curve(Named(3, 2), lambda out, y: F.cross_entropy(out.logits, y), data, one, other, epochs=1)
    values = evaluate_curve(Named(3, 2), lambda out, y: F.cross_entropy(out.logits, y), data, curve, points=2)
    (inputs, labels), (weight, bias) = data[0], one.values()
    scores = (inputs["left"] + inputs["right"]) @ weight.T + bias
    assert float(values.error[0]) == pytest.approx(float((scores.argmax(1) != labels).float().mean()))


def _without(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "1.weight"), "invalid end: entry '1.weight' of the model is missing"),
        (lambda s: {**s, "more": torch.zeros(1)}, "invalid end: entry 'more' is not in the model"),
        (
            lambda s: {**s, "1.bias": torch.zeros(9)},
            "invalid end: entry '1.bias' has shape (9,) (must be (6,), as in the model)",
        ),
    ],
)
def test_state_dicts_that_do_not_fit_are_named_in_one_line(change, message):
    start, end = states("plain")
    with pytest.raises(ValueError, match="invalid end") as caught:
        fit_curve(plain(), F.cross_entropy, batches_for("plain"), start, change(end))
    assert str(caught.value) == message


def test_state_dicts_of_a_curve_must_be_alike():
    one, two = {"w": torch.zeros(2)}, {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"^invalid end: entry 'w' has shape \(3,\) \(must be \(2,\), as in start\)$"):
        BezierCurve(one, two, one)
    with pytest.raises(ValueError, match=r"^invalid bend: entry 'w' is not in bend$"):
        PolygonalChain(one, one, {})
    with pytest.raises(ValueError, match=r"^invalid end: entry 'v' is not in start$"):
        straight_line(one, {**one, "v": one["w"]})


def test_bad_arguments_are_named():
    start, end = states("plain")
    data, model = batches_for("plain"), plain()
    with pytest.raises(ValueError, match=r"invalid epochs: 0 \(must be >= 1\)"):
        fit_curve(model, F.cross_entropy, data, start, end, epochs=0)
    for lr in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=rf"invalid lr: {lr} \(must be >= 0 and finite\)"):
            fit_curve(model, F.cross_entropy, data, start, end, lr=lr)
    with pytest.raises(ValueError, match=r"invalid points: 1 \(must be >= 2\)"):
        evaluate_curve(model, F.cross_entropy, data, straight_line(start, end), points=1)
    with pytest.raises(
        TypeError, match=r"invalid batches: a generator \(must be a list, a DataLoader: iterable again\)"
    ):
        evaluate_curve(model, F.cross_entropy, (batch for batch in data), straight_line(start, end))
    with pytest.raises(ValueError, match="invalid batches: none"):
        evaluate_curve(model, F.cross_entropy, [], straight_line(start, end))
