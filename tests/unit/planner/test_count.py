"""Counted FLOPs and bytes equal those that torch computes and stores on this CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pose.common.params import Params, load_params
from pose.models.build import autocast
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec, model_spec
from pose.planner import count
from pose.planner.count import count_activation_bytes, count_flops
from pose.planner.plan import freezing, make_plan

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def default_spec() -> ModelSpec:
    return spec_of_default()


def stored_bytes(
    spec: ModelSpec, amp: str, batch: int, freeze: count.Freeze = count.train_all
) -> int:
    """Bytes of all storages, without weights, that a forward pass and its loss store."""
    model, stored = PoseModel(spec), {}
    freeze(model)
    width, height = spec.input_wh
    images = torch.randn(batch, 3, height, width)

    def pack(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(torch.device("cpu"), amp):
            maps = model(images)
        loss = (maps.float() ** 2).mean()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert loss.requires_grad
    return sum(
        t.untyped_storage().nbytes() for address, t in stored.items() if address not in parameters
    )


@pytest.mark.parametrize(
    ("family", "head"), [("vit", "sapiens"), ("vit", "classic"), ("sapiens2", "sapiens")]
)
@pytest.mark.parametrize("batch", [1, 5])
def test_bytes_are_those_that_torch_stores(
    default_spec: ModelSpec, family: str, head: str, batch: int
) -> None:
    """To 1 %: fused attention on CPU rounds up the length of its row sums."""
    spec = replace(default_spec, family=family, head=head)
    counted = count_activation_bytes(spec, "none")
    assert counted.per_step + counted.per_sample * batch == pytest.approx(
        stored_bytes(spec, "none", batch), rel=0.01
    )


def test_bytes_under_autocast(tiny_model_spec: ModelSpec) -> None:
    """Copies of the weights count per step, activations per sample; to 3 % (a tiny model)."""
    counted = count_activation_bytes(tiny_model_spec, "bf16")
    for batch in (1, 8):
        expected = stored_bytes(tiny_model_spec, "bf16", batch)
        assert counted.per_step + counted.per_sample * batch == pytest.approx(expected, rel=0.03)


PEAKS = """  # a fork for each: what is imported is imported once, peaks are its own
import json, os, sys, torch
from pathlib import Path
from pose.common.params import load_params
from pose.models.adapter import add_adapters_
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

def step(model, batch, width, height):
    maps = model(torch.zeros(batch, 3, height, width))
    ((maps - torch.zeros_like(maps)) ** 2).mean().backward()

def peak(finetune, spec, batch):
    torch.set_num_threads(1)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
    model = PoseModel(ModelSpec(**values))
    if finetune == "lora":
        add_adapters_(model, load_params(Path("params.yaml")).lora, spec["family"])
    step(model, 1, *spec["input_wh"])  # loads kernels, allocates gradients
    before = status("VmRSS")
    step(model, batch, *spec["input_wh"])
    return status("VmHWM") - before

for case in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        print(peak(*case), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
TRAININGS = [("full", False), ("full", True), ("lora", False), ("lora", True)]
BATCH = 96


def spec_of_default(checkpointing: bool = False) -> ModelSpec:
    spec = model_spec(load_params(ROOT / "params.yaml"), 17)
    return replace(spec, grad_checkpointing=checkpointing)


@pytest.fixture(scope="module")
def peaks() -> dict[tuple[str, bool], int]:
    """Bytes that a step of BATCH adds at its peak, each in a process of its own."""
    cases = [(finetune, asdict(spec_of_default(on)), BATCH) for finetune, on in TRAININGS]
    path = {"PYTHONPATH": str(ROOT / "stages"), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAKS, json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=True)
    return dict(zip(TRAININGS, map(int, done.stdout.split()), strict=True))


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak is read from Linux' /proc"
)
@pytest.mark.parametrize(("finetune", "checkpointing"), TRAININGS)
def test_the_process_peaks_at_what_was_predicted(
    peaks: dict[tuple[str, bool], int], finetune: str, checkpointing: bool
) -> None:
    """From 0.9 to 1.3 of it: backward's temporary gradients are not counted."""
    freeze = freezing(lora_params("none"), "float32") if finetune == "lora" else count.train_all
    spec = spec_of_default(checkpointing)
    predicted = count_activation_bytes(spec, "none", freeze).per_sample * BATCH
    assert 0.9 < peaks[finetune, checkpointing] / predicted < 1.3


def test_a_block_stores_the_inputs_of_its_layers(default_spec: ModelSpec) -> None:
    """16 x tokens x dim: norm 1, qkv 1 + 3, attention 1, norm 1, MLP 1 + 4 + 4. Float32."""
    small, large = (replace(default_spec, depth=depth) for depth in (2, 3))
    tokens, dim, heads = 9 * 12, default_spec.embed_dim, default_spec.num_heads
    scales = (
        4 * tokens + heads * tokens
    )  # mean and deviation of two norms, one sum per attention row
    block = (
        count_activation_bytes(large, "none").per_sample
        - count_activation_bytes(small, "none").per_sample
    )
    assert block == 4 * (16 * tokens * dim + scales)
    checkpointed = [
        count_activation_bytes(replace(s, grad_checkpointing=True), "none") for s in (small, large)
    ]
    assert checkpointed[1].per_sample - checkpointed[0].per_sample == 4 * tokens * dim
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


@pytest.mark.parametrize(
    ("amp", "dtype"), [("none", "float32"), ("bf16", "float32"), ("bf16", "bf16")]
)
@pytest.mark.parametrize("family", ["vit", "sapiens2"])
def test_bytes_with_adapters_are_those_that_torch_stores(
    default_spec: ModelSpec, family: str, amp: str, dtype: str
) -> None:
    spec, params = replace(default_spec, family=family), lora_params(amp, family=family)
    freeze = freezing(params, dtype)
    counted = count_activation_bytes(spec, amp, freeze)
    assert counted.per_step + counted.per_sample * 5 == pytest.approx(
        stored_bytes(spec, amp, 5, freeze), rel=0.02
    )


def test_adapters_need_less_than_all_weights(default_spec: ModelSpec) -> None:
    """Memory of weights, gradients and AdamW; 8-bit moments save where tensors are large."""
    whole, lora = load_params(ROOT / "params.yaml"), lora_params("bf16", frozen_dtype="bf16")
    small = lora.model_copy(
        update={"train": lora.train.model_copy(update={"optimizer": "adamw8bit"})}
    )
    found = [make_plan(params, None) for params in (whole, lora, small)]
    sizes = [sum(plan.state.values()) for plan in found]
    assert sizes[0] == 16 * (found[0].backbone + found[0].head)
    assert sizes[2] < sizes[1] < 0.5 * sizes[0]
    adapters = 4 * 2 * 16 * (2 + 1 + 2.5 + 2.5) * 128  # blocks, A and B, rank, widths
    assert found[1].trained == adapters + found[1].head


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((63, 65), 8 * 4095), ((64, 64), 2 * 4096 + 8 * 16), ((64, 65), 2 * 4160 + 8 * 17)],
)
def test_moments_of_8_bits_have_scales(shape: tuple[int, int], expected: int) -> None:
    parameter = torch.nn.Parameter(torch.empty(shape, device="meta"))
    assert count.moment_bytes([parameter], "adamw8bit") == expected
    assert count.moment_bytes([parameter], "adamw") == 8 * parameter.numel()
