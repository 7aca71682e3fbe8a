"""Several processes that train one network together, each on its part of every batch."""

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

__all__ = [
    "SINGLE_PROCESS",
    "STRATEGIES",
    "Processes",
    "full_state_dict",
    "full_tensor",
    "is_sharded",
    "join_processes",
    "load_full_state_dict",
    "no_sync",
    "parallelize",
]

STRATEGIES = ("ddp", "fsdp")
# A module with fewer parameters than this is not worth an all-gather of its own.
_SHARDED_PARAMETERS = 2**20


@dataclass(frozen=True)
class Processes:
    """The rank of this process and the number of processes; a single one needs no ``torch.distributed``."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints messages."""
        return self.rank == 0

    def local_device(self, device: torch.device) -> torch.device:
        """The device of this process: on CUDA, the GPU of its local rank."""
        if self.size > 1 and device.type == "cuda":
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return device

    def sum(self, rows: list[list[float]], device: torch.device) -> list[list[float]]:
        """The sum of the rows over all processes, entry by entry; the same on each process."""
        if self.size == 1:
            return rows
        total = torch.tensor(rows, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        """The first process's value, on all processes; a plain Python object."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder)
        return holder[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of the ranks, on all processes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers, such as the running averages of batch norm."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait until all processes have come to this point."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = Processes()


def join_processes(device: torch.device) -> Processes:
    """The processes that ``torchrun`` started, over NCCL or gloo; without ``torchrun`` :data:`SINGLE_PROCESS`."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        local = None
        if device.type == "cuda":
            local = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(local)
        # When torchrun restarts the processes, the store may still hold the addresses of the old ones.
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if local else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=local)
        atexit.register(dist.destroy_process_group)  # else NCCL warns at exit
    return Processes(dist.get_rank(), dist.get_world_size())


def parallelize(model: nn.Module, processes: Processes, strategy: str) -> nn.Module:
    """The network to call in training.

    A single process calls the network itself. With ``"ddp"`` it is wrapped in ``DistributedDataParallel``; with
    ``"fsdp"`` its weights are sharded in place (FSDP2).
    """
    if processes.size == 1:
        return model
    if strategy == "ddp":
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    from torch.distributed.fsdp import fully_shard

    def large(module: nn.Module) -> bool:
        return sum(p.numel() for p in module.parameters()) >= _SHARDED_PARAMETERS

    for module in list(model.modules()):
        if module is not model and large(module) and not any(map(large, module.children())):
            fully_shard(module)
    # The root must free its full weights after an evaluation too: zeros are counted on the shards.
    fully_shard(model, reshard_after_forward=True)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has sharded the weights."""
    return hasattr(model, "set_requires_gradient_sync")


def no_sync(model: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """Where ``enabled``, add up gradients on this process only, as for all parts of a batch but the last."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync() if enabled else nullcontext()
    if is_sharded(model):
        model.set_requires_gradient_sync(not enabled)  # pyrefly: ignore
    return nullcontext()


def full_tensor(value: Any) -> Any:
    """The full tensor of a DTensor; anything else unchanged. All processes have to call."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def full_state_dict(state: Any) -> Any:
    """A state dict with full tensors in place of sharded ones; all processes have to call."""
    if isinstance(state, dict):
        return {key: full_state_dict(value) for key, value in state.items()}
    if isinstance(state, list):
        return [full_state_dict(value) for value in state]
    return full_tensor(state)


def load_full_state_dict(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the full state dicts ``state["model"]`` and ``state["optimizer"]`` into a network, sharded or not."""
    current = model.state_dict()
    model.load_state_dict(
        {name: _shard_like(value, current.get(name, value)) for name, value in state["model"].items()}
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = state["optimizer"]
    entries = {
        i: {key: _shard_like(value, parameters[i]) for key, value in entry.items()}
        for i, entry in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": entries})


def _shard_like(value: Any, current: Tensor) -> Any:
    """The value, sharded as ``current`` is where it has the same shape."""
    if hasattr(current, "placements") and isinstance(value, Tensor) and value.shape == current.shape and value.ndim:
        from torch.distributed.tensor import distribute_tensor

        value = value.to(current.device)
        return distribute_tensor(value, current.device_mesh, current.placements)  # pyrefly: ignore
    return value
