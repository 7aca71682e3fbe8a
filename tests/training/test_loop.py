"""fit, evaluate and checkpoints: the same numbers however often training is stopped."""

import io
import math
import os
import zipfile
from itertools import islice

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from directional_pruning import GRDA
from directional_pruning.data import Images, digits
from directional_pruning.files import CorruptFileError, replacing
from directional_pruning.models import digits_net
from directional_pruning.tensors import pick_device
from directional_pruning.training import NonFiniteError, cosine_schedule, evaluate, fit, loop, paper_schedule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


GENERATOR = torch.Generator().manual_seed(0)
TOY = Images(torch.randn(40, 1, 4, 4, generator=GENERATOR), torch.arange(40) % 3)


def toy(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.3, mu=0.6)
    return model, optimizer, LambdaLR(optimizer, lambda epoch: paper_schedule(epoch, 10))


def train_toy(parts, epochs=10, **options):
    model, optimizer, scheduler = parts
    return fit(
        model,
        optimizer,
        lambda epoch: TOY.batches(16, shuffle_seed=epoch),
        epochs=epochs,
        scheduler=scheduler,
        validation=lambda: TOY.batches(16),
        **options,
    )


def without_time(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_schedule_is_the_papers():
    rates = [0.1 * paper_schedule(epoch, 600) for epoch in range(600)]
    assert rates[:301] == [0.1] * 301
    assert rates[420] == pytest.approx(0.1 + (420 - 300) / 240 * (0.001 - 0.1))
    assert rates[540:] == [pytest.approx(0.001)] * 60
    assert rates == sorted(rates, reverse=True)


def test_the_cosine_rises_over_the_warmup_and_falls_to_nearly_nothing():
    rates = [cosine_schedule(epoch, 30) for epoch in range(30)]
    assert rates[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[16] == pytest.approx(0.5)
    assert 0 < rates[29] < 0.01
    assert all(0 < cosine_schedule(epoch, 2) <= 1 for epoch in range(3))  # no longer than the warm-up


def test_batches_depend_on_the_seed_alone_and_hold_every_image_once():
    batches = [labels for _, labels in TOY.batches(16, shuffle_seed=3)]
    assert [len(labels) for labels in batches] == [16, 16, 8]
    assert sorted(torch.cat(batches).tolist()) == sorted(TOY.labels.tolist())
    again = [labels for _, labels in TOY.batches(16, shuffle_seed=3)]
    other = [labels for _, labels in TOY.batches(16, shuffle_seed=4)]
    assert torch.equal(torch.cat(batches), torch.cat(again))
    assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_the_digits_are_split_by_class_without_overlap_and_always_the_same():
    splits = digits()
    assert [len(part) for part in splits] == [1212, 135, 450]
    assert [torch.bincount(part.labels).min().item() for part in splits] == [118, 13, 43]
    images = torch.cat([part.images for part in splits]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 1797
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(digits().test.images, splits.test.images)
    assert digits_net()(splits.test.images[:2]).shape == (2, 10)


def test_evaluate_averages_over_samples_not_batches_and_restores_the_mode():
    model, *_ = toy(dropout=0.9)
    model.train()
    uneven = evaluate(model, TOY.batches(16))
    assert model.training
    whole = evaluate(model, TOY.batches(40))
    assert uneven["accuracy"] == whole["accuracy"]
    assert uneven["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    model[1].eval()  # frozen by the user, as batch norm often is
    evaluate(model, TOY.batches(40))
    assert [layer.training for layer in model] == [True, False, True, True, True]
    logits = model.eval()(TOY.images)
    assert whole["loss"] == pytest.approx(nn.functional.cross_entropy(logits, TOY.labels).item(), rel=1e-6)


def test_fit_learns_prunes_and_records_every_epoch():
    parts = toy()
    seen = []
    records = train_toy(parts, progress=lambda *call: seen.append(call), task="toy")
    assert seen == [("toy", record["epoch"], 10, record) for record in records]
    assert [record["epoch"] for record in records] == list(range(1, 11))
    assert [record["step"] for record in records] == list(range(3, 31, 3))
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert records[0]["sparsity_all"] < records[-1]["sparsity_all"] < 1
    thresholds = [record["threshold"] for record in records]
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] == parts[1].state[next(parts[0].parameters())]["threshold"].item()
    assert records[-1]["validation_accuracy"] == evaluate(parts[0], TOY.batches(16))["accuracy"]
    assert [record["lr"] for record in records] == pytest.approx([0.1 * paper_schedule(e, 10) for e in range(10)])


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_stopping_and_resuming_is_bit_identical_with_dropout(tmp_path, stop):
    whole = toy()
    expected = train_toy(whole)
    first = toy()

    class KilledError(Exception):
        pass

    def kill(task, done, total, record):
        if done == stop + 1:
            raise KilledError

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KilledError):
        train_toy(first, checkpoint=checkpoint, checkpoint_every=stop, progress=kill)
    second, replayed = toy(seed=9), []
    records = train_toy(second, checkpoint=checkpoint, progress=lambda *call: replayed.append(call[3]))
    assert without_time(records) == without_time(replayed) == without_time(expected)
    assert same(whole[0].state_dict(), second[0].state_dict())
    assert records[-1]["seconds"] >= records[0]["seconds"] > 0


def in_the_middle(epoch, first=0):
    """Batches of an epoch, without the first ones where training goes on within it."""
    return TOY.batches(16, shuffle_seed=epoch, first=first)


@pytest.mark.parametrize("stop", [1, 4, 5, 8])
def test_stopping_within_an_epoch_and_resuming_is_bit_identical(tmp_path, stop):
    whole = toy()
    expected = fit(whole[0], whole[1], in_the_middle, epochs=3, scheduler=whole[2])

    class KilledError(Exception):
        pass

    step = 0

    def killed_after(epoch, first=0):
        nonlocal step
        for batch in in_the_middle(epoch, first):
            if step == stop:
                raise KilledError
            step += 1
            yield batch

    path = tmp_path / "checkpoint.pt"
    parts = toy()
    options = {"epochs": 3, "checkpoint": path, "checkpoint_every": 99, "checkpoint_seconds": 0}
    with pytest.raises(KilledError):
        fit(parts[0], parts[1], killed_after, scheduler=parts[2], **options)
    progress = torch.load(path, weights_only=True)["progress"]
    # After every step, and at the end of an epoch.
    assert len(progress["records"]) == stop // 3
    assert (progress["part"] or {"batches": 0})["batches"] == stop % 3
    again, seen = toy(seed=9), []

    def resumed(epoch, first=0):
        seen.append((epoch, first))
        return in_the_middle(epoch, first)

    records = fit(again[0], again[1], resumed, scheduler=again[2], **options)
    assert seen[0] == (stop // 3, stop % 3)
    assert without_time(records) == without_time(expected)
    assert same(whole[0].state_dict(), again[0].state_dict())


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    ends = []
    for accumulate in (1, 3):
        model, optimizer, _ = toy(dropout=0.0)
        records = fit(model, optimizer, lambda epoch: TOY.batches(16), epochs=2, accumulate=accumulate)
        ends.append((model.state_dict(), records))
    (one, records), (other, parts) = ends
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=1e-5, atol=1e-6)
    assert [record["step"] for record in parts] == [record["step"] for record in records]
    assert parts[-1]["train_loss"] == pytest.approx(records[-1]["train_loss"], rel=1e-5)
    assert parts[-1]["train_accuracy"] == records[-1]["train_accuracy"]


def test_autocast_computes_in_bfloat16_and_keeps_float32_weights():
    kinds = set()
    model, optimizer, _ = toy()
    model[1].register_forward_hook(lambda module, args, output: kinds.add((module.training, output.dtype)))
    batches = lambda *_: TOY.batches(16)  # noqa: E731
    fit(model, optimizer, batches, epochs=1, validation=batches, autocast=torch.bfloat16)
    assert kinds == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert all(p.dtype is torch.float32 for p in model.parameters())


def test_the_norm_ratio_is_that_of_all_parameters():
    model, *_ = toy()
    w = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    (record,) = fit(model, GRDA(model.parameters(), lr=1e-30), lambda _: TOY.batches(40), epochs=1)
    assert record["norm_ratio"] == pytest.approx((w.norm() / w.norm(1)).item(), rel=1e-6)


def toy_weight_bytes(content):
    """Where the bytes of some stored weight begin."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = max(archive.infolist(), key=lambda item: item.file_size if "/data/" in item.filename else 0)
        return content.index(archive.read(entry))


@pytest.mark.parametrize("damage", ["truncated", "altered", "a bit", "empty", "of another network", "another file"])
def test_a_corrupt_checkpoint_is_named_in_one_line(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    train_toy(toy(), epochs=1, checkpoint=path)
    content = path.read_bytes()
    if damage == "of another network":
        other = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        optimizer = GRDA(other.parameters())
        fit(other, optimizer, lambda _: TOY.batches(16), epochs=1, checkpoint=tmp_path / "other.pt")
        content = (tmp_path / "other.pt").read_bytes()
    weight = toy_weight_bytes(content)
    broken = {
        "truncated": content[:-100],
        "altered": b"\0" * 200 + content[200:],
        "a bit": content[:weight] + bytes([content[weight] ^ 1]) + content[weight + 1 :],
        "empty": b"",
        "another file": b"hello",
    }
    path.write_bytes(broken.get(damage, content))
    with pytest.raises(CorruptFileError, match=r"^.*checkpoint\.pt is not .*checkpoint.*$") as caught:
        train_toy(toy(), checkpoint=path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_never_runs_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "checkpoint.pt"
    torch.save({"model": Bomb()}, path)
    with pytest.raises(CorruptFileError):
        train_toy(toy(), checkpoint=path)
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("input", r"the loss is nan at step 5 \(epoch 2\): the input is not finite"),
        ("weight", r"the loss is nan at step 5 \(epoch 2\): 1\.weight is not finite"),
        ("layer", r"the loss is nan at step 5 \(epoch 2\): the output of layer 2 is not finite"),
        ("loss", r"the loss is inf at step 5 \(epoch 2\): the loss itself overflowed"),
    ],
)
def test_divergence_stops_with_the_step_and_the_layer_and_keeps_the_checkpoint(tmp_path, break_it, message):
    model, optimizer, _ = toy()
    steps = 0

    def batches(epoch):
        nonlocal steps
        for inputs, labels in TOY.batches(16, shuffle_seed=epoch):
            steps += 1
            if steps == 5:
                if break_it == "input":
                    inputs = inputs * math.nan
                elif break_it == "weight":
                    with torch.no_grad():
                        model[1].weight[0, 0] = math.nan
                elif break_it == "layer":
                    model[2].register_forward_hook(lambda module, args, output: output * math.nan)
            yield inputs, labels

    def loss_fn(logits, labels):
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * math.inf if break_it == "loss" and steps >= 5 else loss

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(NonFiniteError, match=message):
        fit(model, optimizer, batches, epochs=4, loss_fn=loss_fn, checkpoint=path, checkpoint_every=1)
    assert len(torch.load(path, weights_only=True)["progress"]["records"]) == 1


def read_late(monkeypatch):
    """Read losses as from a GPU: 32 steps at a time."""
    monkeypatch.setattr(loop, "_reads_each_step", lambda device: False)


def many(epoch, first=0):
    """Forty batches an epoch, so that losses are read within it."""
    for batch in range(first, 40):
        yield from islice(TOY.batches(16, shuffle_seed=1000 * epoch + batch), 1)


def fit_toy(parts, **options):
    return fit(parts[0], parts[1], many, epochs=2, scheduler=parts[2], **options)


def test_losses_read_late_are_the_same_and_checkpoints_within_an_epoch_whole(monkeypatch, tmp_path):
    whole = toy()
    expected = fit_toy(whole)
    read_late(monkeypatch)
    saved, path = [], tmp_path / "checkpoint.pt"

    class KilledError(Exception):
        pass

    def killed_after_three_saves(epoch, first=0):
        for batch in many(epoch, first):
            part = torch.load(path, weights_only=True)["progress"]["part"] if path.exists() else "none yet"
            if part != "none yet" and part not in saved[-1:]:
                saved.append(part)
            if len(saved) == 3:
                raise KilledError
            yield batch

    options = {"checkpoint": path, "checkpoint_seconds": 0, "checkpoint_every": 99}
    killed = toy()
    with pytest.raises(KilledError):
        fit(killed[0], killed[1], killed_after_three_saves, epochs=2, scheduler=killed[2], **options)
    # When losses are read, and at the end of an epoch; all samples trained on are counted.
    assert [part and (part["batches"], part["seen"]) for part in saved] == [(32, 512), None, (32, 512)]
    resumed = toy(seed=5)
    records = fit_toy(resumed, **options)
    assert without_time(records) == without_time(expected)
    assert same(whole[0].state_dict(), resumed[0].state_dict())


def test_divergence_read_late_names_the_step_and_keeps_the_last_good_checkpoint(monkeypatch, tmp_path):
    read_late(monkeypatch)
    parts, step = toy(), 0

    def loss_fn(logits, labels):
        nonlocal step
        step += 1
        return nn.functional.cross_entropy(logits, labels) * (math.nan if step >= 45 else 1)

    path = tmp_path / "checkpoint.pt"
    message = r"the loss is nan at step 45 \(epoch 2\): noticed at step 72"
    with pytest.raises(NonFiniteError, match=message):
        fit_toy(parts, loss_fn=loss_fn, checkpoint=path, checkpoint_seconds=0)
    saved = torch.load(path, weights_only=True)
    assert len(saved["progress"]["records"]) == 1
    assert saved["progress"]["part"] is None
    assert all(torch.isfinite(w).all() for w in saved["model"].values())


def test_a_weight_that_left_the_numbers_is_not_saved_within_an_epoch(tmp_path):
    parts, step = toy(), 0

    def batches(epoch):
        nonlocal step
        for batch in many(epoch):
            step += 1
            if step == 8:
                with torch.no_grad():  # no loss has seen it yet when the checkpoint is due
                    parts[0][4].bias.register_hook(lambda gradient: gradient * math.inf)
            yield batch

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(NonFiniteError, match=r"4\.bias is not finite after step 8 \(epoch 1\)"):
        fit(parts[0], parts[1], batches, epochs=2, checkpoint=path, checkpoint_seconds=0)
    assert torch.load(path, weights_only=True)["progress"]["part"]["batches"] == 7


def test_the_culprit_is_named_where_batch_norm_comes_after_it():
    net = digits_net()
    net.conv2.register_forward_hook(lambda module, args, output: output * math.nan)
    optimizer = GRDA(net.parameters())
    with pytest.raises(NonFiniteError, match="the output of layer conv2 is not finite"):
        fit(net, optimizer, lambda _: digits().validation.batches(64), epochs=1)


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    model, optimizer, _ = toy()

    def batches(epoch):
        yield from TOY.batches(40)
        with torch.no_grad():
            model[4].bias[0] = math.inf

    with pytest.raises(NonFiniteError, match=r"4\.bias is not finite after step 1 \(epoch 1\)"):
        fit(model, optimizer, batches, epochs=2, checkpoint=tmp_path / "checkpoint.pt", checkpoint_every=1)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["cpu:x", "nothing", "cuda:99", "meta"])
def test_an_unusable_device_is_named(name):
    with pytest.raises(ValueError, match=f"invalid device: {name}"):
        pick_device(name)
    assert pick_device("cpu") == torch.device("cpu")
