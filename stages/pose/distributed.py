"""torch.distributed for a run of several processes; with one process each function does nothing.

Only environment variables set the number of processes: NPROC per node, and for several nodes
torchrun's own variables (PET_NNODES, PET_RDZV_BACKEND, PET_RDZV_ENDPOINT ...), see docs/scaling.md.
Results do not depend on them, so no file that DVC tracks contains them.
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
    """Rank of this process on all nodes; 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes on all nodes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process has rank 0: it writes files, logs and shows progress bars."""
    return rank() == 0


def init(threads: int) -> torch.device:
    """Join the process group if the environment sets several processes; returns the device.

    If this process was not started by torchrun, it is replaced by torchrun, which starts the script
    in each process. Raises PoseError for a wrong value in the environment.
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
        device = _local_gpu(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    atexit.register(dist.destroy_process_group)
    if not is_main_process():
        logger.setLevel(logging.WARNING)
    return device


def _local_gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise PoseError(
            f"environment: NPROC = {os.environ['LOCAL_WORLD_SIZE']}, but this node has {count} "
            "GPUs; set NPROC to at most one process per GPU"
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
    """Replace this process by torchrun, after POSE_LAUNCHER (`srun`, for example) if it is set."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torchrun would set 1 and warn
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


def batch_per_process(batch_size: int, key: str, accumulate: int = 1) -> int:
    """Part of a batch for each process. Raises PoseError if it cannot be divided evenly."""
    world = world_size()
    if batch_size % (world * accumulate):
        raise PoseError(
            f"params.yaml: {key} = {batch_size}, expected a multiple of {world} processes x "
            f"train.accumulate {accumulate}; change one of them"
        )
    return batch_size // world


def broadcast(value: T) -> T:
    """The value of rank 0, on all processes."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather(value: T) -> list[T]:
    """The values of all processes in the order of their ranks, on all processes."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Tensors of equal shape from all processes, concatenated along axis 0 in rank order."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def any_process(value: bool) -> bool:
    """Whether value is true on any process; reduced on the CPU, so no GPU is synchronised."""
    if world_size() == 1:
        return value
    flag = torch.tensor(int(value))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def all_mean(tensor: Tensor) -> Tensor:
    """Mean over all processes, on all processes."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / world_size()
