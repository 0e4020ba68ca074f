"""Counted FLOPs are those that torch computes, and bytes within 10 % of what it allocates here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import step_memory
from pose.common.params import Params, load_params
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec, model_spec
from pose.planner import count
from pose.planner.count import count_flops, count_step_bytes
from pose.planner.plan import make_plan
from step_memory import Setting, settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def default_spec() -> ModelSpec:
    return model_spec(load_params(ROOT / "params.yaml"), 17)


ALL = sorted(settings(), key=str)


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: "-".join(map(str, astuple(setting))))
def test_a_step_takes_what_torch_allocates(setting: Setting) -> None:
    """Weights and moments to the two tables of 256 values that 8-bit moments share; a step to 10 %:
    a kernel's workspace is not counted."""
    counted, measured = step_memory.counted(setting, 16), step_memory.measured(setting, 16)
    assert 0 <= measured.state - counted.state <= 2048 * (setting.optimizer == "adamw8bit")
    assert 0.9 < counted.step / measured.step < 1.02


def test_a_small_batch_peaks_at_the_gradients(tiny_model_spec: ModelSpec) -> None:
    """At the end of the backward; gradients that are held are not counted again."""
    spec = replace(tiny_model_spec, embed_dim=512)
    gradients = 4 * count.count_parameters(count.build_on_meta(spec))
    held, new = (count_step_bytes(spec, "none", held=held) for held in (True, False))
    assert gradients < new.at(1) < 1.1 * gradients
    assert held.at(1) < 0.9 * gradients
    assert new.at(2) - new.at(1) < new.at(1000) - new.at(999)
    assert held.at(1000) <= new.at(1000) < held.at(1000) + gradients


def test_the_largest_batch_is_where_the_first_moment_is_full() -> None:
    step = count.StepBytes(((100, 10), (500, 0), (300, 4)))
    assert [step.at(batch) for batch in (1, 40, 50, 100)] == [500, 500, 600, 1100]
    assert [step.largest_batch(free) for free in (499, 500, 599, 600.5, 1100)] == [
        0,
        40,
        49,
        50,
        100,
    ]


def test_moments_that_others_exceed_are_left_out() -> None:
    lines = {(0, 5), (1, 5), (2, 3), (1, 4), (2, 2), (9, 0)}
    assert count._highest(lines) == ((1, 5), (2, 3), (9, 0))


PEAKS = """
import os, sys, torch
import peft, torch._dynamo  # before the forks, which would each import them
from pathlib import Path
import step_memory as s

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

def grown(finetune, checkpointing):
    params = s.Setting("vit", finetune, "none", checkpointing).params()
    model = s.PoseModel(s.model_spec(params, 17))
    s.freeze_for_phase2_(model, params)
    optimizer = s.build_optimizer(model, params.train)
    s.training_step(params, model, optimizer, 1)()  # loads kernels, allocates moments
    before = status("VmRSS")
    s.training_step(params, model, optimizer, 24)()
    return status("VmHWM") - before

torch.set_num_threads(1)
for finetune in ("full", "lora"):
    for checkpointing in (False, True):
        if (process := os.fork()) == 0:
            print(finetune, checkpointing, grown(finetune, checkpointing), flush=True)
            os._exit(0)
        os.waitpid(process, 0)
"""


@pytest.fixture(scope="module")
def grown() -> dict[str, int]:
    """By setting, bytes by which a process of its own grew in a step of 24 samples."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from Linux' /proc")
    path = os.pathsep.join([str(ROOT / "stages"), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", PEAKS],
        cwd=ROOT,
        env={"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return {setting: int(size) for setting, size in lines}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_the_process_grows_by_what_was_counted(
    grown: dict[str, int], finetune: str, checkpointing: bool
) -> None:
    """To 10 %, with a batch whose activations are far larger than all else."""
    counted = step_memory.counted(Setting("vit", finetune, "none", checkpointing), 24).step
    assert 0.9 < counted / grown[f"{finetune} {checkpointing}"] < 1.1


def per_sample(spec: ModelSpec) -> int:
    """Bytes that a sample adds to a step of a large batch in float32."""
    counted = count_step_bytes(spec, "none")
    return counted.at(1001) - counted.at(1000)


def test_a_block_stores_the_inputs_of_its_layers(default_spec: ModelSpec) -> None:
    """16 x tokens x dim: norm 1, qkv 1 + 3, attention 1, norm 1, MLP 1 + 4 + 4. Float32."""
    small, large = (replace(default_spec, depth=depth, mlp_dim=None) for depth in (2, 3))
    tokens, dim, heads = 9 * 12, default_spec.embed_dim, default_spec.num_heads
    scales = (
        4 * tokens + heads * tokens
    )  # mean and deviation of two norms, one sum per attention row
    assert per_sample(large) - per_sample(small) == 4 * (16 * tokens * dim + scales)
    checkpointed = [per_sample(replace(s, grad_checkpointing=True)) for s in (small, large)]
    assert checkpointed[1] - checkpointed[0] == 4 * tokens * dim
    counts = [count.count_parameters(count.build_on_meta(s).backbone) for s in (small, large)]
    assert counts[1] - counts[0] == 12 * dim**2 + 13 * dim


def test_flops_are_those_of_a_real_step(default_spec: ModelSpec) -> None:
    counted, model = count_flops(default_spec), PoseModel(default_spec)
    width, height = default_spec.input_wh
    images = torch.zeros(2, 3, height, width)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(images).sum().backward()
    assert counter.get_total_flops() == 2 * counted.training
    assert 2.9 < counted.training / counted.forward < 3
    assert counted.forward - counted.recomputed < counted.head_only < counted.training


def test_checkpointing_does_not_change_flops(tiny_model_spec: ModelSpec) -> None:
    """The second forward is counted apart, as Flops.recomputed."""
    spec = replace(tiny_model_spec, grad_checkpointing=True)
    assert count_flops(spec) == count_flops(tiny_model_spec)


# what LoRA keeps


def lora_params(amp: str, **model: object) -> Params:
    params = load_params(ROOT / "params.yaml")
    train = params.train.model_copy(update={"finetune": "lora", "amp": amp})
    changed = params.model.model_copy(update=model)
    return params.model_copy(update={"train": train, "model": changed})


def test_adapters_need_less_than_all_weights(default_spec: ModelSpec) -> None:
    """Memory of weights, gradients and AdamW; 8-bit moments save where tensors are large."""
    whole, lora = load_params(ROOT / "params.yaml"), lora_params("bf16", frozen_dtype="bf16")
    small = lora.model_copy(
        update={"train": lora.train.model_copy(update={"optimizer": "adamw8bit"})}
    )
    found = [make_plan(params, None) for params in (whole, lora, small)]
    sizes = [sum(plan.state.values()) for plan in found]
    assert sizes[0] == 16 * (found[0].backbone + found[0].head)  # stage 2 holds gradients
    assert sizes[2] < sizes[1] < 0.5 * sizes[0]
    model, rank = lora.model, lora.lora.rank
    widths = (1 + 3) + (1 + 1), 2 * (model.embed_dim + model.mlp_dim)  # of A and B: qkv, proj; MLP
    adapters = model.depth * rank * (widths[0] * model.embed_dim + widths[1])
    assert found[1].trained == adapters + found[1].head


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((63, 65), 8 * 4095), ((64, 64), 2 * 4096 + 8 * 16), ((64, 65), 2 * 4160 + 8 * 17)],
)
def test_moments_of_8_bits_have_scales(shape: tuple[int, int], expected: int) -> None:
    parameter = torch.nn.Parameter(torch.empty(shape, device="meta"))
    assert count.moment_bytes([parameter], "adamw8bit") == expected
    assert count.moment_bytes([parameter], "adamw") == 8 * parameter.numel()
