"""Build the model of params.yaml, and configure torch for a run."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

import torch

from pose import distributed
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.models.pose_model import PoseModel
from pose.models.spec import model_spec

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def setup_torch(params: Params) -> torch.device:
    """Configure torch: seed, determinism, threads, precision; returns the device, CUDA if possible.

    Starts the processes that the environment asks for, see pose.distributed: this call returns in
    each of them.
    """
    device = distributed.init(params.run.threads)
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(params.run.seed)
    torch.set_num_threads(params.run.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # for debugging only; costs 9 % here
    precision = "tf32" if params.train.tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    return device


def describe_device(device: torch.device) -> str:
    """Name of the GPU, or the CPU's threads, and the number of processes; for the log."""
    on_gpu = device.type == "cuda"
    name = (
        torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    )
    processes = distributed.world_size()
    return name + (f", {processes} processes" if processes > 1 else "")


def keep_freed_memory() -> None:
    """Stop glibc's malloc from returning freed memory to the system, which slows down each step.

    Measured in benchmarks/allocator.md. Does nothing with another C library.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)  # the largest allowed value
        libc.mallopt(trim_threshold, 2**31 - 1)


def build_model(params: Params, skeleton: Skeleton) -> PoseModel:
    """The model of params.yaml, newly initialised."""
    return PoseModel(model_spec(params, skeleton.num_keypoints))


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """torch.autocast for train.amp: bf16, fp16 or none. Losses and the codec stay in float32."""
    dtype = AMP_TYPES.get(amp, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=amp in AMP_TYPES)
