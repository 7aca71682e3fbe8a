"""Several processes that train one network together, each on its share of every batch."""

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
    "ALONE",
    "STRATEGIES",
    "Processes",
    "gathered",
    "gradients_stay",
    "is_sharded",
    "join_processes",
    "scatter",
    "spread",
]

STRATEGIES = ("ddp", "fsdp")
# A module with fewer parameters than this is not worth a gathering of its own.
_SHARDED_PARAMETERS = 2**20


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is; one alone needs no ``torch.distributed``."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def own(self, device: torch.device) -> torch.device:
        """The device of this process among those of its machine."""
        if self.size > 1 and device.type == "cuda":
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return device

    def sum(self, rows: list[list[float]], device: torch.device) -> list[list[float]]:
        """The sum over the processes, entry by entry; the same on each."""
        if self.size == 1:
            return rows
        total = torch.tensor(rows, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def share(self, value: Any) -> Any:
        """The first process's value, on all of them; plain Python."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder)
        return holder[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of the ranks; on all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first, such as batch norm's running averages, seen from its images."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Processes()


def join_processes(device: torch.device) -> Processes:
    """The processes that ``torchrun`` started, over NCCL or gloo; :data:`ALONE` where it did not start this one."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    if not dist.is_initialized():
        own = None
        if device.type == "cuda":
            own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(own)
        # A store can outlive the processes that torchrun starts again, and with it the addresses of the dead.
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if own else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=own)
        atexit.register(dist.destroy_process_group)  # or NCCL complains of what is left
    return Processes(dist.get_rank(), dist.get_world_size())


def spread(model: nn.Module, processes: Processes, strategy: str) -> nn.Module:
    """The network to call: alone itself, else under DDP, or with its weights sharded in place (FSDP2, ``"fsdp"``)."""
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
    # The root too gives its weights back after an evaluation, so that what is counted and saved is sharded.
    fully_shard(model, reshard_after_forward=True)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has spread the weights."""
    return hasattr(model, "set_requires_gradient_sync")


def gradients_stay(model: nn.Module, stay: bool) -> AbstractContextManager[None]:
    """Whether gradients are left to add up on this process, before the last part of a batch."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync() if stay else nullcontext()
    if is_sharded(model):
        model.set_requires_gradient_sync(not stay)  # pyrefly: ignore
    return nullcontext()


def gathered(state: Any) -> Any:
    """A state dict with every sharded tensor made whole; all processes have to call."""
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def scatter(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the whole state dicts ``state["model"]`` and ``state["optimizer"]`` into a network, sharded or not."""

    def like(value: Any, own: Tensor) -> Any:
        if hasattr(own, "placements") and isinstance(value, Tensor) and value.shape == own.shape and value.ndim:
            from torch.distributed.tensor import distribute_tensor

            value = value.to(own.device)
            return distribute_tensor(value, own.device_mesh, own.placements)  # pyrefly: ignore
        return value

    own = model.state_dict()
    model.load_state_dict({name: like(value, own.get(name, value)) for name, value in state["model"].items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = state["optimizer"]
    entries = {
        i: {key: like(value, parameters[i]) for key, value in entry.items()} for i, entry in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": entries})
