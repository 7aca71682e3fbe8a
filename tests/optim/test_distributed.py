"""GRDA on several processes against one: DDP, FSDP2, distributed checkpoints.

This file is also the program that the processes run: ``python test_distributed.py RANK WORLD FOLDER``. One launch runs
all scenarios of a world, because starting a process takes seconds.
"""

import os
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from programs import run_together
from torch import nn

from directional_pruning import GRDA, Directional, Target, sparsity_report
from directional_pruning.optim import kernels

pytestmark = pytest.mark.slow

SECONDS = 100
KERNEL = {"fused": True} if kernels.available() else {}
SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}

if __name__ == "__main__":  # modules that take a second to import, and that only the processes need
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as dcs
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor, init_device_mesh
    from torch.distributed.tensor.debug import CommDebugMode


class Net(nn.Module):
    """Rows that two or three processes cannot share evenly: 3 for ``wide``, 1 for ``narrow``, and a plain tensor."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.wide, self.narrow = nn.Linear(8, 3), nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.narrow(torch.tanh(self.wide(x)) * self.scale)


def make(model, **options):
    """GRDA with pruned and spared parameters, sharded and plain ones in one group."""
    spared = [p for name, p in model.named_parameters() if name.endswith("bias")]
    pruned = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    return GRDA([{"params": pruned, "c": 0.15}, {"params": spared, "c": 0.0}], lr=0.1, **options)


def make_directional(model, **_):
    """The same groups under AdamW, whose state is sharded beside ours."""
    groups = [{"params": group["params"], "c": 10 * group["c"]} for group in make(model).param_groups]
    return Directional(torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01))


def shard(model, mesh=None, **options):
    for layer in (model.wide, model.narrow):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, ignored_params={model.scale}, **options)


def whole(t):
    return t.detach().full_tensor() if isinstance(t, DTensor) else t.detach().clone()


def everything(model, optimizer):
    """Name -> w and its state, each gathered from all processes."""
    return {
        name: {"w": whole(p)} | {key: whole(t) for key, t in optimizer.state[p].items()}
        for name, p in model.named_parameters()
    }


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert found[name].keys() == tensors.keys(), name
        for key, t in tensors.items():
            own = found[name][key]
            assert (own.dtype, own.shape) == (t.dtype, t.shape), (name, key)
            own, t = (x.contiguous().reshape(-1).view(torch.uint8) for x in (own, t))
            assert torch.equal(own, t), (name, key)


def train_beside_one_process(rank, world, model, distributed=None, *, tolerance=1e-5, make=make, **options):
    """Train on this process's share of each batch, and beside it two networks on this process alone.

    The first gets the gradients that the processes agreed on, and must have their weights and state to the last bit;
    the second makes its own from the whole batch.
    """
    distributed = distributed or model
    twin, alone = Net(), Net()
    optimizer, twins, alones = make(model, **options, **KERNEL), make(twin, **options), make(alone, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        x = torch.randn(12, 8, generator=generator)
        y = x[:, :1] - x[:, 1:2]
        for network, inputs, targets in (
            (distributed, x.chunk(world)[rank], y.chunk(world)[rank]),
            (alone, x, y),
        ):
            (network(inputs) - targets).square().mean().backward()
        if not isinstance(distributed, nn.parallel.DistributedDataParallel):
            dist.all_reduce(model.scale.grad)
            model.scale.grad /= world
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = whole(p.grad)
        with CommDebugMode() as communication:
            optimizer.step()
        assert "target" in options or communication.get_total_counts() == 0
        twins.step()
        alones.step()
        for each in (optimizer, twins, alones):
            each.zero_grad()
    found = everything(model, optimizer)
    assert_same_bits(found, everything(twin, twins))
    for p in model.parameters():
        state = optimizer.state[p]
        for key in state.keys() & {"dual", "momentum_buffer"}:
            assert getattr(state[key], "placements", None) == getattr(p, "placements", None)
        if "dual" in state and KERNEL:
            w = p.detach()
            assert kernels.can_update(w.to_local() if isinstance(w, DTensor) else w)
    for name, tensors in everything(alone, alones).items():
        torch.testing.assert_close(found[name]["w"], tensors["w"], rtol=tolerance, atol=tolerance)
        if tolerance < 1e-3:
            assert torch.equal(found[name]["w"] == 0, tensors["w"] == 0)
    zeros = sum(int((tensors["w"] == 0).sum()) for tensors in found.values())
    assert 0 < zeros < 24
    return model, twin


def ddp_gives_the_one_process_result(rank, world, folder):
    for options in ({}, SGD):
        model = Net()
        train_beside_one_process(rank, world, model, nn.parallel.DistributedDataParallel(model), **options)


def fsdp_gives_the_one_process_result(rank, world, folder):
    for options in ({}, SGD, {"make": make_directional}):
        model = shard(Net())
        assert isinstance(model.wide.weight, DTensor)
        assert not isinstance(model.scale, DTensor)
        assert rank == 0 or model.narrow.weight.to_local().numel() == 0
        train_beside_one_process(rank, world, model, **options)


def fsdp_in_mixed_precision_gives_the_one_process_result(rank, world, folder):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
    train_beside_one_process(rank, world, shard(Net(), mp_policy=policy), tolerance=0.05, **SGD)


def a_target_gives_the_threshold_of_one_process(rank, world, folder):
    targets = [Target(0.6, steps=12, start=0, end=0.5, every=1, scope=scope) for scope in ("global", "layer")]
    for target in targets:
        sharded, _ = train_beside_one_process(rank, world, shard(Net()), target=target)
        train_beside_one_process(rank, world, shard(Net()), target=target, **SGD)
        if target.scope == "global":
            pruned = [p for name, p in sharded.named_parameters() if not name.endswith("bias")]
            zeros = sum(int((whole(p) == 0).sum()) for p in pruned)
            assert zeros == round(0.6 * sum(p.numel() for p in pruned))


def hybrid_sharding_gives_the_one_process_result(rank, world, folder):
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    train_beside_one_process(rank, world, shard(Net(), mesh), **SGD)


def the_report_is_that_of_the_whole_network(rank, world, folder):
    for mesh in (None, init_device_mesh("cpu", (world, 1), mesh_dim_names=("replicate", "shard"))):
        model, twin = train_beside_one_process(rank, world, shard(Net(), mesh))
        x = torch.ones(5, 8)
        assert sparsity_report(model) == sparsity_report(twin)
        assert sparsity_report(model, x) == sparsity_report(twin, x)
        assert sparsity_report(twin, x).multiply_adds == 5 * (24 + 3)
        assert 0 < sparsity_report(model).sparsity < 1


def gradients_not_yet_summed_are_summed(rank, world, folder):
    mesh = init_device_mesh("cpu", (world,))
    w, twin = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Replicate()])), nn.Parameter(torch.ones(4))
    optimizer, alone = GRDA([w], lr=0.1, c=0.5, momentum=0.9), GRDA([twin], lr=0.1, c=0.5, momentum=0.9)
    for _ in range(3):
        w.grad = DTensor.from_local(torch.full((4,), rank + 1.0), mesh, [Partial()])
        twin.grad = torch.full((4,), world * (world + 1) / 2)
        optimizer.step()
        alone.step()
    assert torch.equal(whole(w), twin.detach())


def halves(seed=0):
    """bfloat16 and float32 layers; the first keeps a float32 dual."""
    model = Net(seed)
    model.wide.to(torch.bfloat16)
    return model


def advance(model, optimizer, steps):
    """Gradients drawn whole, the same for any number of processes; now and then there is none."""
    for n in steps:
        for i, p in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * n + i)
            grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            if isinstance(p, DTensor):
                grad = distribute_tensor(grad, p.device_mesh, p.placements)
            p.grad = None if n * (i + 1) % 4 == 1 else grad
        optimizer.step()
    optimizer.zero_grad()


def a_snapshot_before_the_first_step_changes_nothing(rank, world, folder):
    model, twin = shard(halves()), halves()
    optimizer, one = make(model, momentum=0.9), make(twin, momentum=0.9)
    dcs.get_state_dict(model, optimizer)  # takes a step with lr = 0
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        state = optimizer.state[p]
        assert p.grad is None
        assert torch.equal(whole(p), q.detach())
        assert state["step"].item() == state.get("threshold", torch.zeros(())).item() == 0
        if "dual" in state:
            assert torch.equal(whole(state["dual"]), q.detach().float())
    advance(model, optimizer, range(6))
    advance(twin, one, range(6))
    assert_same_bits(everything(model, optimizer), everything(twin, one))


def a_checkpoint_is_saved(rank, world, folder, make=make):
    model, twin = shard(halves()), halves()
    optimizer, one = make(model, **SGD), make(twin, **SGD)
    advance(model, optimizer, range(5))
    options = dcs.StateDictOptions(flatten_optimizer_state_dict=make is make_directional)
    states = dict(zip(("model", "optimizer"), dcs.get_state_dict(model, optimizer, options=options), strict=True))
    dcp.save(states, checkpoint_id=folder / make.__name__)
    saved = everything(model, optimizer)
    assert saved["wide.weight"]["dual"].dtype == torch.float32
    assert len({tensors["step"].item() for tensors in saved.values()}) > 1
    advance(model, optimizer, range(5, 10))
    final = everything(model, optimizer)
    advance(twin, one, range(10))
    assert_same_bits(final, everything(twin, one))
    if rank == 0:
        torch.save((saved, final), folder / f"{make.__name__}.pt")


def a_checkpoint_of_directional_is_saved(rank, world, folder):
    a_checkpoint_is_saved(rank, world, folder, make_directional)


def a_checkpoint_of_two_processes_goes_on_on_three(rank, world, folder, make=make):
    saved, final = torch.load(folder / f"{make.__name__}.pt", weights_only=True)
    model = shard(halves(seed=7))
    optimizer = make(model, **SGD)
    options = dcs.StateDictOptions(flatten_optimizer_state_dict=make is make_directional)
    states = dict(zip(("model", "optimizer"), dcs.get_state_dict(model, optimizer, options=options), strict=True))
    dcp.load(states, checkpoint_id=folder / make.__name__)
    dcs.set_state_dict(
        model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"], options=options
    )
    assert_same_bits(everything(model, optimizer), saved)
    advance(model, optimizer, range(5, 10))
    assert_same_bits(everything(model, optimizer), final)


def a_checkpoint_of_directional_goes_on_on_three(rank, world, folder):
    a_checkpoint_of_two_processes_goes_on_on_three(rank, world, folder, make_directional)


def a_gathered_state_goes_to_one_process_and_back(rank, world, folder):
    options = dcs.StateDictOptions(full_state_dict=True)
    for each_make in (make, make_directional):
        networks = model, _, again = shard(halves()), halves(seed=7), shard(halves(seed=8))
        optimizers = [each_make(each, **SGD) for each in networks]
        advance(model, optimizers[0], range(5))
        for source, target in ((0, 1), (1, 2)):
            weights, state = dcs.get_state_dict(networks[source], optimizers[source], options=options)
            dcs.set_state_dict(
                networks[target], optimizers[target], model_state_dict=weights, optim_state_dict=state, options=options
            )
        assert_same_bits(everything(again, optimizers[2]), everything(model, optimizers[0]))
        assert isinstance(optimizers[2].state[again.wide.weight]["dual"], DTensor)


SCENARIOS = {
    2: (
        ddp_gives_the_one_process_result,
        fsdp_gives_the_one_process_result,
        a_target_gives_the_threshold_of_one_process,
        fsdp_in_mixed_precision_gives_the_one_process_result,
        hybrid_sharding_gives_the_one_process_result,
        the_report_is_that_of_the_whole_network,
        gradients_not_yet_summed_are_summed,
        a_snapshot_before_the_first_step_changes_nothing,
        a_gathered_state_goes_to_one_process_and_back,
        a_checkpoint_is_saved,
        a_checkpoint_of_directional_is_saved,
    ),
    3: (
        fsdp_gives_the_one_process_result,
        the_report_is_that_of_the_whole_network,
        a_checkpoint_of_two_processes_goes_on_on_three,
        a_checkpoint_of_directional_goes_on_on_three,
    ),
}


def launch(world, folder):
    """Run the scenarios of a world; return what each process printed. None outlives this call."""
    return run_together(*([__file__, rank, world, folder] for rank in range(world)), cwd=folder, seconds=SECONDS)


def work(rank, world, folder):
    """What a process does: the scenarios of its world in turn, up to the first that fails."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'rendezvous_{world}'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS // 2),
    )
    for scenario in SCENARIOS[world]:
        start = time.perf_counter()
        scenario(rank, world, folder)
        print(f"passed {scenario.__name__} in {time.perf_counter() - start:.1f} s", flush=True)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return {world: launch(world, folder) for world in SCENARIOS}


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo")
@pytest.mark.parametrize(
    ("world", "scenario"), [(world, each.__name__) for world, scenarios in SCENARIOS.items() for each in scenarios]
)
def test_on_several_processes(printed, world, scenario):
    for rank, text in enumerate(printed[world]):
        assert f"passed {scenario} " in text, f"process {rank} of {world} printed:\n{text}"


if __name__ == "__main__":
    try:
        work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting for processes that wait for this one
