"""fit(): resuming is exact to the bit, NaN stops with its place, rows are means of windows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError, Stopped
from pose.common.params import Train
from pose.common.skeleton import COCO_17
from pose.engine import checkpoint
from pose.engine import fit as engine_fit
from pose.engine.ema import WeightEma
from pose.engine.fit import Gradients, TrainState, fit, loss_scaler, supervised_step
from pose.engine.optim import Schedule, build_adamw
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from sections import DEFAULT, changed

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


def schedule(steps: int = STEPS, per_epoch: int | None = None) -> Schedule:
    return Schedule("cosine", 1e-2, steps, per_epoch or steps, 2, 1e-5, (9,), 0.1)


def settings(**changes) -> Train:
    values = {"clip_grad_norm": 1.0, "log_steps": 3, "checkpoint_steps": 4, "batch_size": 2}
    return changed(DEFAULT.train, **values | {"on_bad_step": "stop", "max_skipped": 20} | changes)


def fresh(spec: ModelSpec) -> TrainState:
    torch.manual_seed(0)
    model = PoseModel(spec)
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    return TrainState(model, build_adamw(model, 0.1, 0.9, (0.9, 0.999)))


def train(
    state: TrainState,
    until: int = STEPS,
    step_loss=None,
    rows=None,
    save=None,
    validate=engine_fit.no_validation,
    stop=lambda: False,
    per_epoch: int | None = None,
    **changes,
) -> None:
    """Batches end at `until`, as a killed run's do; the schedule is always that of STEPS."""
    fit(
        "train_x",
        settings(**changes),
        state,
        (batch(step) for step in range(state.step, until)),
        step_loss or supervised_step(state.model, CODEC, CPU, "none"),
        schedule(per_epoch=per_epoch),
        on_row=(rows if rows is not None else []).append,
        save=save or (lambda state: None),
        validate=validate,
        stop=stop,
    )


@pytest.mark.parametrize("kill_at", [4, 6, 10])
@pytest.mark.parametrize("family", ["vit", "sapiens2"])
def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, tiny_model_spec: ModelSpec, family: str, kill_at: int
) -> None:
    drop_path = 0.3 if family == "vit" else 0.0  # the forward draws, so rng counts
    tiny_model_spec = replace(tiny_model_spec, drop_path=drop_path, family=family)
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
        "train_x",
        settings(),
        state,
        [batch(0)] * 60,
        step_loss,
        schedule(60),
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
    assert [row["lr_min"] for row in rows] == [0.9**3 * row["lr"] for row in rows]
    assert set(rows[0]) == {"step", "lr", "lr_min", "loss", "grad_norm"}
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
    state, saves = fresh(tiny_model_spec), []

    def step_loss(batch, step: int):
        return {"loss": torch.tensor(value if step == 4 else 1.0)}

    with pytest.raises(PoseError) as caught:
        train(state, step_loss=step_loss, save=saves.append)
    assert "became NaN or Inf at step 5, seen at 6 (lr " in str(caught.value)
    assert "lower train.lr" in str(caught.value)
    assert "last good state: the checkpoint of step 4" in str(caught.value)
    assert len(saves) == 1


def bad_steps(state: TrainState, *steps: int):
    """The loss' gradient is no number in these steps, and the loss neither."""
    supervised = supervised_step(state.model, CODEC, CPU, "none")

    def step_loss(batch, step: int):
        found = supervised(batch, step)
        if step in steps:
            state.model.head.final_layer.bias.grad.fill_(math.nan)
            found["loss"] = found["loss"] * math.nan
        return found

    return step_loss


def same_weights(one: TrainState, other: TrainState) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_skipping_without_bad_steps_is_the_plain_run(tiny_model_spec: ModelSpec) -> None:
    plain, skipping = fresh(tiny_model_spec), fresh(tiny_model_spec)
    train(plain)
    train(skipping, on_bad_step="skip")
    assert same_weights(plain, skipping)
    assert skipping.history == [row | {"skipped": 0.0} for row in plain.history]


def test_bad_steps_are_left_out_and_counted(tiny_model_spec: ModelSpec) -> None:
    """The window's means are those of its other steps; a window of bad ones alone has none."""
    state = fresh(tiny_model_spec)
    train(state, step_loss=bad_steps(state, 1, 6, 7, 8), on_bad_step="skip")
    assert [row["skipped"] for row in state.history] == [1, 1, 4, 4]
    assert [("loss" in row, "grad_norm" in row) for row in state.history] == [
        (True, True),
        (True, True),
        (False, False),
        (True, True),
    ]
    assert {int(s["step"]) for s in state.optimizer.state.values()} == {STEPS - 4}
    expected = fresh(tiny_model_spec)
    train(expected, 1, log_steps=1)
    ends = fresh(tiny_model_spec)
    train(ends, 2, step_loss=bad_steps(ends, 1), on_bad_step="skip")
    assert same_weights(expected, ends)


@pytest.mark.parametrize("kill_at", [4, 8])
def test_a_resumed_run_skips_as_an_unbroken_one(
    tmp_path: Path, tiny_model_spec: ModelSpec, kill_at: int
) -> None:
    path, (unbroken, killed, resumed) = tmp_path / "x.pt", [fresh(tiny_model_spec) for _ in "abc"]
    law = {"on_bad_step": "skip", "max_skipped": 3}
    train(unbroken, step_loss=bad_steps(unbroken, 2, 3, 5, 7), **law)
    step_loss = bad_steps(killed, 2, 3, 5, 7)
    save = lambda s: checkpoint.save_training_state(path, s.to_dict())  # noqa: E731
    train(killed, kill_at, step_loss, save=save, **law)
    resumed.restore_(checkpoint.read_training_state(path))
    assert resumed.bad.in_a_row == {4: 2, 8: 1}[kill_at]
    assert torch.equal(resumed.bad.accepted, killed.bad.accepted)
    train(resumed, step_loss=bad_steps(resumed, 5, 7), **law)
    assert resumed.history == unbroken.history
    assert same_weights(resumed, unbroken)


def test_fp16_skips_jumps_too(tiny_model_spec: ModelSpec) -> None:
    """An overflow halves the scale, a loss that jumps does not; neither takes a step."""
    state = half_state(tiny_model_spec)
    overflowing = scaled_step(state, 1)

    def step_loss(batch, step: int):
        found = overflowing(batch, step)
        return {"loss": found["loss"] * 1000} if step == 2 else found

    train(state, 3, step_loss=step_loss, on_bad_step="skip")
    assert state.history[0]["skipped"] == 2
    assert state.scaler.get_scale() == 2.0**15
    assert {int(s["step"]) for s in state.optimizer.state.values()} == {1}


def test_it_stops_when_asked_and_goes_on_to_the_bit(
    tmp_path: Path, tiny_model_spec: ModelSpec
) -> None:
    path, (unbroken, asked, resumed) = tmp_path / "x.pt", [fresh(tiny_model_spec) for _ in "abc"]
    train(unbroken)
    answers = iter([False, False, False, False, True])
    with pytest.raises(Stopped, match=r"after step 5 of 11, which is saved; rerun to continue"):
        train(
            asked,
            save=lambda s: checkpoint.save_training_state(path, s.to_dict()),
            stop=lambda: next(answers),
        )
    resumed.restore_(checkpoint.newest_training_state(path))
    assert (resumed.step, resumed.saved_at) == (5, 5)
    train(resumed)
    assert resumed.history == unbroken.history
    assert same_weights(resumed, unbroken)


def test_asked_after_the_last_step_it_is_done(tiny_model_spec: ModelSpec) -> None:
    state, saves = fresh(tiny_model_spec), []
    train(state, save=saves.append, checkpoint_steps=99, stop=lambda: state.step == STEPS)
    assert (state.step, saves) == (STEPS, [])


def test_the_average_goes_on_to_the_bit(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    path, (unbroken, killed, resumed) = tmp_path / "x.pt", [fresh(tiny_model_spec) for _ in "abc"]
    for state in (unbroken, killed, resumed):
        state.ema = WeightEma(state.model, 0.9)
    train(unbroken)
    train(killed, 6, save=lambda s: checkpoint.save_training_state(path, s.to_dict()))
    resumed.restore_(checkpoint.read_training_state(path))
    train(resumed)
    assert same_weights(resumed, unbroken)
    expected, start = unbroken.ema.to_dict(), fresh(tiny_model_spec).model.state_dict()
    for name, tensor in resumed.ema.to_dict().items():
        assert torch.equal(tensor, expected[name]), name
        if "weight" in name:
            assert not torch.equal(tensor, start[name]), name
            assert not torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_what_is_seen_after_an_epoch_is_logged_and_saved(tiny_model_spec: ModelSpec) -> None:
    state, rows, saved = fresh(tiny_model_spec), [], []

    def validate(state: TrainState):
        return {"step": float(state.step), "val_AP": 0.5} if state.step != 4 else {}

    train(
        state,
        rows=rows,
        save=lambda s: saved.append([*s.history]),
        validate=validate,
        per_epoch=2,
        checkpoint_steps=6,
    )
    steps = [row["step"] for row in rows if "val_AP" in row]
    assert steps == [2, 6, 8, 10, 11]
    assert rows == state.history
    assert [row["step"] for row in saved[0]] == [2, 3, 6, 6]


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
    engine_fit.freeze_backbone_(state.model)
    state.optimizer = build_adamw(state.model, 0.1, 0.9, (0.9, 0.999))
    before = {k: v.clone() for k, v in engine_fit.model_weights(state.model).items()}
    train(state)
    for name, tensor in engine_fit.model_weights(state.model).items():
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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_weight_scales_loss_and_gradients(
    tiny_model_spec: ModelSpec, accumulate: int
) -> None:
    found = []
    for weight in (1.0, 8.0):  # powers of two are exact
        state, rows = fresh(tiny_model_spec), []
        gradients = Gradients(accumulate, loss_scaler(CPU, "none"), weight)
        step_loss = supervised_step(state.model, CODEC, CPU, "none", gradients)
        train(state, 1, step_loss=step_loss, rows=rows, log_steps=1, clip_grad_norm=1e9)
        found.append((rows[0]["loss"], rows[0]["grad_norm"]))
    assert found[1] == pytest.approx([8 * value for value in found[0]], rel=1e-6)


def test_a_loss_weight_scales_what_is_clipped(tiny_model_spec: ModelSpec) -> None:
    """A limit that is scaled as well clips the same share of the gradients."""
    moments = []
    for weight, clip in ((1.0, 1e-3), (16.0, 16e-3), (16.0, 1e-3)):
        state = fresh(tiny_model_spec)
        gradients = Gradients(1, loss_scaler(CPU, "none"), weight)
        step_loss = supervised_step(state.model, CODEC, CPU, "none", gradients)
        train(state, 1, step_loss=step_loss, clip_grad_norm=clip)
        moments.append(state.optimizer.state[state.model.head.final_layer.weight]["exp_avg"])
    torch.testing.assert_close(moments[1], 16 * moments[0], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(moments[2], moments[0], rtol=1e-3, atol=1e-9)


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
@pytest.mark.parametrize("family", ["vit", "sapiens2"])
def test_half_precision_is_near(tiny_model_spec: ModelSpec, family: str, amp: str) -> None:
    name, spec = "head.final_layer.weight", replace(tiny_model_spec, family=family)
    exact, found = (gradients_of(spec, 1, kind)[name] for kind in ("none", amp))
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
    assert row["skipped"] == 1
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


@pytest.mark.parametrize("family", ["vit", "sapiens2"])
def test_compiled_parts_keep_their_names_and_results(
    tiny_model_spec: ModelSpec, family: str
) -> None:
    spec = replace(tiny_model_spec, family=family)
    plain, compiled = fresh(spec), fresh(spec)
    for part in (*compiled.model.backbone.blocks, compiled.model.head):
        part.compile(backend="aot_eager")
    train(plain, 3)
    train(compiled, 3)
    expected = engine_fit.model_weights(plain.model)
    found = engine_fit.model_weights(compiled.model)
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
