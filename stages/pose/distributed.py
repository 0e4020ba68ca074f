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
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pose.common.errors import PoseError, ProcessesEnded
from pose.common.log import logger
from pose.common.processes import die_with
from pose.common.script import ERROR_FILE

T = TypeVar("T")

# They report each process that failed or was stopped; the last line of the stage says why.
TORCHRUN_LOGGERS = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)


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

    If this process was not started by torchrun, it starts the script in each process with it, and
    raises ProcessesEnded when they have ended. Raises PoseError for a wrong value in the
    environment.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _join()
    processes = _from_environment("NPROC")
    if max(processes, _from_environment("PET_NNODES")) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torchrun would set 1 and warn
        if launcher := shlex.split(os.environ.get("POSE_LAUNCHER", "")):
            _launch_on_all_nodes(launcher, processes)
        _launch(processes)
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
    any_process(False)  # all are connected: gloo reports one that ends while others still connect
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


def _launch(processes: int) -> None:
    """Run this script in so many processes of this node; raises ProcessesEnded with their result.

    torchrun's own summary is not printed: it does not know what a stage has said. The text of the
    process that failed first is in the file that script.exit_codes writes.
    """
    nodes = [] if "PET_NNODES" in os.environ else ["--standalone"]
    for name in TORCHRUN_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "error.txt"
        os.environ[ERROR_FILE] = str(path)
        try:
            command = [*nodes, "--nproc-per-node", str(processes), "--log-dir", folder, *sys.argv]
            torchrun.run(torchrun.parse_args(command))
        except ChildFailedError as error:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            raise _ended(error, text) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise ProcessesEnded(128 + stopped.sigval, "") from None
        finally:
            del os.environ[ERROR_FILE]
    raise ProcessesEnded(0, "")


def _ended(error: ChildFailedError, text: str) -> ProcessesEnded:
    """Exit code and last line; text: the reason that a process left, if any.

    Without one, a process was killed. torchrun ends the others, with SIGTERM first.
    """
    if text:
        return ProcessesEnded(1, text)
    order = {-signal.SIGTERM: 2}  # sent by torchrun; a process killed otherwise comes first
    rank, failure = min(
        error.failures.items(), key=lambda one: order.get(one[1].exitcode, one[1].exitcode > 0)
    )
    if failure.exitcode < 0:
        line = (
            f"the process of rank {rank} was killed by {failure.signal_name()}; rerun to continue"
        )
        return ProcessesEnded(128 - failure.exitcode, line)
    if failure.exitcode == 128 + signal.SIGTERM:  # logged by rank 0
        return ProcessesEnded(failure.exitcode, "")
    line = f"the process of rank {rank} ended with exit code {failure.exitcode} without a message"
    return ProcessesEnded(failure.exitcode, line)


def _launch_on_all_nodes(launcher: list[str], processes: int) -> None:
    """Replace this process by POSE_LAUNCHER (`srun`, for example), which starts it on each node."""
    settings = [f"NPROC={processes}", "POSE_LAUNCHER="]  # not every launcher passes the environment
    command = [*launcher, "env", *settings, sys.executable, *sys.argv]
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
