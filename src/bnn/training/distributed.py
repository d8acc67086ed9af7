"""Several processes that train one network, as `torchrun` starts them; alone, a process is a world of one.

    with join("cpu") as world:
        loss = world.mean(loss)

Every process runs the same code on its own share of each batch. PyTorch's DistributedDataParallel averages
the gradients; what else the processes tell each other goes through a World.
"""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from bnn.config import ConfigError
from bnn.errors import first_lines

__all__ = ["World", "check_device", "join"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes, and what they tell each other.

    Every method must be called by all processes, in the same order.

    Attributes:
        rank: from 0 to size - 1; rank 0 writes files and speaks to the user.
        size: how many processes there are.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        return self.total(value) / self.size

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def average_buffers(self, model: nn.Module) -> None:
        """Makes the buffers one: the mean of what is real-valued, as each process saw other samples."""
        if self.size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.size
                else:
                    distributed.broadcast(buffer, 0)

    def on_rank_0(self, task: Callable[[], T]) -> T:
        """Rank 0 does the task, and all get its result; an error there is raised everywhere."""
        if self.size == 1:
            return task()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = task()
            except Exception as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, 0, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward averages gradients over the processes; `model` itself stays usable."""
        if self.size == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*broadcast_buffers", FutureWarning
            )  # there is no successor yet
            # Buffers are averaged once an epoch: batch norms have their process's statistics in between.
            return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


@contextmanager
def join(device: str) -> Iterator[World]:
    """Meets the other processes that `torchrun` has started, if any, and parts from them at the end.

    Args:
        device: as a recipe names it. With several processes, "cuda" is each one's own GPU of its machine.

    Raises:
        ConfigError: there is no such device here, or the processes cannot meet.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise ConfigError(f"WORLD_SIZE = {size!r} is no number of processes; torchrun sets it")
    several = int(size) > 1 and "RANK" in os.environ
    if several and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    check_device(device)
    if not several:
        yield World(device=torch.device(device))
        return
    here = torch.device(device)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    # DDP imports this module, and its functions keep the group that there is then as a default argument. If
    # that is ours, gloo's threads outlive its end, and one that frees a tensor while Python shuts down aborts
    # the process. So it is imported while there is none.
    import_module("torch.distributed.nn.functional")
    try:
        distributed.init_process_group("nccl" if here.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the {size} processes cannot meet, as torchrun has them: {first_lines(error)}"
        ) from error
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), here)
    finally:
        gc.collect()  # the model as DDP wraps it holds the group, and is part of a circle of references
        distributed.destroy_process_group()


def check_device(name: str) -> None:
    """Raises ConfigError if there is no such device here."""
    try:
        torch.zeros(1, device=name).item()  # which the device "meta" has none of
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device = {name!r} cannot be used: {first_lines(error)}") from error
