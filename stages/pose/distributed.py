"""Several processes as one run, by torch.distributed under torchrun; alone, every call is free.

The environment alone says how many: NPROC processes a node, and for several nodes torchrun's own
variables (PET_NNODES, PET_RDZV_BACKEND, PET_RDZV_ENDPOINT ...), see docs/scaling.md. No result
depends on them, so no file that DVC tracks names them.
"""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import sys
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pose.common.errors import PoseError
from pose.common.log import logger
from pose.common.processes import die_with

T = TypeVar("T")


def rank() -> int:
    """This process among all, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Processes on all nodes, 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Processes on this node, 1 alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files, logs and draws bars."""
    return rank() == 0


def begin(threads: int) -> torch.device:
    """The device of this process, with its group set up if the environment asks for several.

    Asked for them outside torchrun, this process becomes torchrun, which starts the script in each.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _join()
    processes = _from_environment("NPROC")
    if max(processes, _from_environment("PET_NNODES")) > 1:
        _become_torchrun(processes, threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _join() -> torch.device:
    die_with(os.getppid())
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        device = torch.device("cpu")
    else:
        device = _own_gpu(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    atexit.register(dist.destroy_process_group)
    if not is_first():
        logger.setLevel(logging.WARNING)
    return device


def _own_gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise PoseError(
            f"environment: NPROC = {os.environ['LOCAL_WORLD_SIZE']}, but this node has {count} "
            "GPUs; a process needs one of its own"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _from_environment(name: str) -> int:
    text = os.environ.get(name) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise PoseError(f"environment: {name} = {text!r}, expected a positive integer")
    return int(text)


def _become_torchrun(processes: int, threads: int) -> None:
    """POSE_LAUNCHER stands before the command: `srun` and its like start it on every node."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else torchrun sets 1 and says so
    nodes = [] if "PET_NNODES" in os.environ else ["--standalone"]
    command = [*shlex.split(os.environ.get("POSE_LAUNCHER", "")), sys.executable, "-m"]
    command += ["torch.distributed.run", *nodes, "--nproc-per-node", str(processes), *sys.argv]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise PoseError(
            f"environment: POSE_LAUNCHER = {command[0]!r} cannot be run: {error.strerror}"
        ) from None


def share_of(batch_size: int, key: str, accumulate: int = 1) -> int:
    """Persons of a step that this process takes. Raises PoseError if they do not come out even."""
    world = world_size()
    if batch_size % (world * accumulate):
        raise PoseError(
            f"params.yaml: {key} = {batch_size}, expected a multiple of {world} processes x "
            f"train.accumulate {accumulate}; change one of them"
        )
    return batch_size // world


def from_first(value: T) -> T:
    """The first process's value, in all."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Everyone's value by rank, in all."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def gather_rows(tensor: Tensor) -> Tensor:
    """Everyone's tensors of one shape, joined along the first axis by rank, in all."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def anyone(value: bool) -> bool:
    """Whether it is true in any process, in all; over the CPU, so no device is waited for."""
    if world_size() == 1:
        return value
    flag = torch.tensor(int(value))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def mean(tensor: Tensor) -> Tensor:
    """Mean over processes, in all."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / world_size()
