"""fit(): resuming is exact to the bit, NaN stops with its place, rows are means of windows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pose import checkpoint, engine
from pose.codec import UdpCodec
from pose.engine import (
    FitSettings,
    Gradients,
    TrainState,
    fit,
    loss_scaler,
    supervised_step,
)
from pose.errors import PoseError
from pose.model import ModelSpec, PoseModel
from pose.optim import Schedule, build_adamw
from pose.skeleton import COCO_17

CPU = torch.device("cpu")
STEPS = 11
MAP_WH, SIGMA = (12, 16), 1.0
CODEC = UdpCodec("gaussian", (24, 32), MAP_WH, SIGMA, 0.0546875, COCO_17.flip_indices)


def batch(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(2, 17, 3, generator=generator) * torch.tensor([11, 15, 1.0])
    targets[..., 2] = (targets[..., 2] > 0.3).float()
    return [images, targets]


def schedule(steps: int = STEPS) -> Schedule:
    return Schedule("cosine", 1e-2, steps, steps, 2, 1e-5, (9,), 0.1)


def settings(**changes) -> FitSettings:
    values = {"name": "train_x", "clip_grad_norm": 1.0, "log_steps": 3, "checkpoint_steps": 4}
    return FitSettings(**values | {"batch_size": 2} | changes)


def fresh(spec: ModelSpec) -> TrainState:
    torch.manual_seed(0)
    model = PoseModel(spec)
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    return TrainState(model, build_adamw(model, 0.1, 0.9, (0.9, 0.999)))


def train(
    state: TrainState, stop: int = STEPS, step_loss=None, rows=None, save=None, **changes
) -> None:
    """Batches end at `stop`, as a killed run's do; the schedule is always that of STEPS."""
    fit(
        state,
        (batch(step) for step in range(state.step, stop)),
        step_loss or supervised_step(state.model, CODEC, CPU, "none"),
        schedule(),
        settings(**changes),
        on_row=(rows if rows is not None else []).append,
        save=save or (lambda state: None),
    )


@pytest.mark.parametrize("kill_at", [4, 6, 10])
def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, tiny_model_spec: ModelSpec, kill_at: int
) -> None:
    tiny_model_spec = replace(tiny_model_spec, drop_path=0.3)  # the forward draws, so rng counts
    unbroken = fresh(tiny_model_spec)
    train(unbroken)
    path = tmp_path / "state.pt"
    killed = fresh(tiny_model_spec)
    train(killed, kill_at, save=lambda s: checkpoint.save_training_state(path, s.to_dict()))
    resumed = fresh(tiny_model_spec)
    torch.manual_seed(99)
    resumed.restore_(checkpoint.read_training_state(path))
    assert resumed.step == kill_at // 4 * 4
    train(resumed)
    assert resumed.history == unbroken.history
    for (name, a), b in zip(
        unbroken.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_training_lowers_the_loss_on_one_batch(tiny_model_spec: ModelSpec) -> None:
    state, rows = fresh(tiny_model_spec), []
    step_loss = supervised_step(state.model, CODEC, CPU, "none")
    fit(
        state,
        [batch(0)] * 60,
        step_loss,
        schedule(60),
        settings(),
        on_row=rows.append,
        save=lambda state: None,
    )
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


def test_rows_and_checkpoints_come_when_asked(tiny_model_spec: ModelSpec) -> None:
    state, rows, saves = fresh(tiny_model_spec), [], []
    losses = iter(range(STEPS))

    def step_loss(batch, step: int):
        loss = state.model.head.final_layer.bias.sum() * 0 + next(losses)
        loss.backward()
        return {"loss": loss.detach()}

    train(state, step_loss=step_loss, rows=rows, save=lambda s: saves.append(s.step))
    assert [row["step"] for row in rows] == [3, 6, 9, 11]
    assert [row["loss"] for row in rows] == [1, 4, 7, 9.5]
    assert [row["lr"] for row in rows] == [schedule().at(step - 1) for step in (3, 6, 9, 11)]
    assert set(rows[0]) == {"step", "lr", "loss", "grad_norm"}
    assert rows == state.history
    assert saves == [4, 8]


def test_the_last_step_needs_no_checkpoint(tiny_model_spec: ModelSpec) -> None:
    saves: list[int] = []
    train(fresh(tiny_model_spec), save=lambda s: saves.append(s.step), checkpoint_steps=STEPS)
    assert saves == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_its_window(
    tiny_model_spec: ModelSpec, value: float
) -> None:
    state = fresh(tiny_model_spec)

    def step_loss(batch, step: int):
        return {"loss": torch.tensor(value if step == 4 else 1.0)}

    with pytest.raises(PoseError) as caught:
        train(state, step_loss=step_loss)
    assert "became non-finite between steps 3 and 6 (lr " in str(caught.value)
    assert "lower train.lr" in str(caught.value)


def test_gradients_are_clipped(tiny_model_spec: ModelSpec) -> None:
    """The norm is logged unclipped, and the step sees one of length 1."""
    state, rows = fresh(tiny_model_spec), []
    bias = state.model.head.final_layer.bias

    def step_loss(batch, step: int):
        loss = (bias * 7).sum()
        loss.backward()
        return {"loss": loss.detach()}

    train(state, 3, step_loss=step_loss, rows=rows)
    assert rows[0]["grad_norm"] == pytest.approx(7 * math.sqrt(17), rel=1e-5)
    assert float(bias.grad.norm()) == pytest.approx(1, rel=1e-5)


def test_the_supervised_step_is_the_loss_of_its_targets(tiny_model_spec: ModelSpec) -> None:
    model = fresh(tiny_model_spec).model
    images, targets = batch(0)
    found = supervised_step(model, CODEC, CPU, "none")([images, targets], 0)
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    inputs = ((images.flip(3).float() - mean) / std).permute(0, 3, 1, 2)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    near = torch.trunc(targets + 0.5)[..., None, None]
    squared = (x - targets[..., 0, None, None]) ** 2 + (y - targets[..., 1, None, None]) ** 2
    cut = ((x - near[:, :, 0]).abs() <= 3) & ((y - near[:, :, 1]).abs() <= 3)
    weights = targets[..., 2, None, None]
    expected = (weights * (model(inputs) - torch.exp(-squared / 2) * cut) ** 2).mean()
    assert float(found["loss"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert model.backbone.pos_embed.grad is not None


def test_a_frozen_backbone_stays(tiny_model_spec: ModelSpec) -> None:
    state = fresh(tiny_model_spec)
    engine.freeze_backbone_(state.model)
    state.optimizer = build_adamw(state.model, 0.1, 0.9, (0.9, 0.999))
    before = {k: v.clone() for k, v in engine.model_weights(state.model).items()}
    train(state)
    for name, tensor in engine.model_weights(state.model).items():
        # biases before a norm without affine have no gradient, see the spec
        if name.startswith("backbone."):
            assert torch.equal(tensor, before[name])
        elif name.endswith("weight"):
            assert not torch.equal(tensor, before[name])
    assert not state.model.backbone.training


def gradients_of(spec: ModelSpec, accumulate: int, amp: str = "none") -> dict[str, torch.Tensor]:
    """Of one step on four persons."""
    model = fresh(spec).model
    images, targets = (torch.cat(pair) for pair in zip(batch(0), batch(1), strict=True))
    step = supervised_step(model, CODEC, CPU, amp, Gradients(accumulate, loss_scaler(CPU, "none")))
    step([images, targets], 0)
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_add_up_to_the_batch(tiny_model_spec: ModelSpec, accumulate: int) -> None:
    whole = gradients_of(tiny_model_spec, 1)
    for name, gradient in gradients_of(tiny_model_spec, accumulate).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-7, rtol=1e-4)


def test_batch_norms_see_a_micro_batch(tiny_model_spec: ModelSpec) -> None:
    """The one part whose gradient is another; its statistics are of fewer persons."""
    spec = replace(tiny_model_spec, head="classic", conv_channels=())
    name = "head.deconv_layers.0.weight"
    whole, parts = gradients_of(spec, 1)[name], gradients_of(spec, 2)[name]
    assert (whole - parts).norm() > 0.01 * whole.norm()


def test_a_share_must_split_evenly(tiny_model_spec: ModelSpec) -> None:
    with pytest.raises(AssertionError):
        gradients_of(tiny_model_spec, 3)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_is_near(tiny_model_spec: ModelSpec, amp: str) -> None:
    name = "head.final_layer.weight"
    exact, found = (gradients_of(tiny_model_spec, 1, kind)[name] for kind in ("none", amp))
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 0.05 * exact.norm()


def half_state(spec: ModelSpec) -> TrainState:
    state = fresh(spec)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    return state


def scaled_step(state: TrainState, overflow_at: int = -1):
    """The loss' gradient is infinite in one step, as fp16's is when it overflows."""
    supervised = supervised_step(state.model, CODEC, CPU, "fp16", Gradients(1, state.scaler))

    def step_loss(batch, step: int):
        found = supervised(batch, step)
        if step == overflow_at:
            state.model.head.final_layer.bias.grad.fill_(math.inf)
        return found

    return step_loss


def test_fp16_leaves_out_a_step_that_overflows(tiny_model_spec: ModelSpec) -> None:
    state, rows = half_state(tiny_model_spec), []
    train(state, 3, step_loss=scaled_step(state, 1), rows=rows)
    (row,) = rows
    assert row["skipped"] == pytest.approx(1 / 3)
    assert state.scaler.get_scale() == 2.0**15
    steps = {int(s["step"]) for s in state.optimizer.state.values()}
    assert steps == {2}
    plain, expected = fresh(tiny_model_spec), []
    train(plain, 1, rows=expected, log_steps=1)
    assert row["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=0.5)  # of two steps
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_the_loss_scale_goes_on(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    unbroken = half_state(tiny_model_spec)
    train(unbroken, step_loss=scaled_step(unbroken, 3))
    path, killed = tmp_path / "state.pt", half_state(tiny_model_spec)
    step = scaled_step(killed, 3)
    train(killed, 6, step, save=lambda s: checkpoint.save_training_state(path, s.to_dict()))
    resumed = half_state(tiny_model_spec)
    resumed.restore_(checkpoint.read_training_state(path))
    assert resumed.scaler.get_scale() == 2.0**16  # grown after three steps, halved in the fourth
    train(resumed, step_loss=scaled_step(resumed))
    assert resumed.history == unbroken.history
    assert resumed.scaler.state_dict() == unbroken.scaler.state_dict()
    for a, b in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_compiled_parts_keep_their_names_and_results(tiny_model_spec: ModelSpec) -> None:
    plain, compiled = fresh(tiny_model_spec), fresh(tiny_model_spec)
    for part in (*compiled.model.backbone.blocks, compiled.model.head):
        part.compile(backend="aot_eager")
    train(plain, 3)
    train(compiled, 3)
    expected = engine.model_weights(plain.model)
    found = engine.model_weights(compiled.model)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("read", [torch.contiguous_format, torch.channels_last])
def test_a_state_fits_a_head_in_another_layout(tiny_model_spec: ModelSpec, saved, read) -> None:
    """The head is channels-last on CUDA unless FSDP shards it."""
    unbroken, killed, resumed = (fresh(tiny_model_spec) for _ in range(3))
    killed.model.head.to(memory_format=saved)
    resumed.model.head.to(memory_format=read)
    train(unbroken, 6)
    train(killed, 4)
    resumed.restore_(killed.to_dict())
    train(resumed, 6)
    for (name, a), b in zip(
        unbroken.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        if name.endswith("weight"):  # biases before a norm have gradients of rounding alone
            torch.testing.assert_close(a, b, atol=2e-5, rtol=0, msg=name)
