"""What each setting of train.finetune trains, saves and resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError
from pose.common.params import Params, load_params
from pose.common.skeleton import COCO_17
from pose.engine import checkpoint
from pose.engine.ema import WeightEma
from pose.engine.finetune import freeze_for_phase1_, freeze_for_phase2_, load_for_training_
from pose.engine.fit import TrainState, fit, supervised_step
from pose.engine.optim import Schedule, build_optimizer
from pose.engine.train import saved_weights
from pose.models.adapter import Base, merge, trained_names
from pose.models.checkpoint import load_model, read_base, read_weights, save_weights
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from sections import DEFAULT, changed

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
CODEC = UdpCodec("gaussian", (24, 32), (12, 16), 1.0, 0.0546875, COCO_17.flip_indices)
STEPS = 7


def params(finetune: str, family: str = "vit", dtype: str = "float32", **train) -> Params:
    return DEFAULT.model_copy(
        update={
            "model": changed(DEFAULT.model, family=family, frozen_dtype=dtype),
            "train": changed(
                DEFAULT.train, **{"finetune": finetune, "log_steps": 3, "batch_size": 2} | train
            ),
            "lora": changed(DEFAULT.lora, rank=2, dropout=0.1),
        }
    )


def fresh(spec: ModelSpec, family: str = "vit") -> PoseModel:
    torch.manual_seed(0)
    model = PoseModel(replace(spec, family=family, rope_dtype="fp32"))
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    return model


def batch(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(2, 17, 3, generator=generator) * torch.tensor([11, 15, 1.0])
    targets[..., 2] = 1.0
    return [images, targets]


def train(state: TrainState, settings: Params, until: int = STEPS, save=None) -> None:
    fit(
        "train_x",
        changed(settings.train, checkpoint_steps=4, val_epochs=0),
        state,
        (batch(step) for step in range(state.step, until)),
        supervised_step(state.model, CODEC, CPU, settings.train.amp),
        Schedule("cosine", 1e-2, STEPS, STEPS, 2, 1e-5, (9,), 0.1),
        on_row=lambda row: None,
        save=save or (lambda state: None),
    )


def started(spec: ModelSpec, settings: Params, ema: bool = False) -> TrainState:
    model = fresh(spec, settings.model.family)
    freeze_for_phase2_(model, settings)
    averaged = WeightEma(model, 0.5) if ema else None
    return TrainState(model, build_optimizer(model, settings.train), ema=averaged)


@pytest.mark.parametrize(
    ("settings", "ema"),
    [
        (params("lora"), False),
        (params("lora"), True),
        (params("lora", "sapiens2"), False),
        (params("head"), False),
        (params("lora", dtype="bf16", amp="bf16"), False),
        (params("lora", optimizer="adamw8bit"), False),
        (params("full", optimizer="adamw8bit"), False),
    ],
    ids=["lora", "ema", "sapiens2", "head", "bf16", "lora 8 bit", "8 bit"],
)
def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, tiny_model_spec: ModelSpec, settings: Params, ema: bool
) -> None:
    spec = replace(tiny_model_spec, embed_dim=32)  # large enough for moments of 8 bits
    unbroken, killed, resumed = (started(spec, settings, ema) for _ in range(3))
    torch.manual_seed(1)
    train(unbroken, settings)
    path = tmp_path / "state.pt"
    torch.manual_seed(1)
    train(killed, settings, 6, lambda s: checkpoint.save_training_state(path, s.to_dict()))
    state = checkpoint.read_training_state(path)
    assert state["model"].keys() == trained_names(resumed.model)
    assert (len(state["model"]) < len(resumed.model.state_dict())) == (
        settings.train.finetune != "full"
    )
    resumed.restore_(state)
    assert resumed.step == 4
    train(resumed, settings)
    assert resumed.history == unbroken.history
    for (name, a), b in zip(
        unbroken.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    if unbroken.ema and resumed.ema:
        assert all(map(torch.equal, unbroken.ema.values, resumed.ema.values))


def test_moments_of_8_bits_are_near_those_of_32(tiny_model_spec: ModelSpec) -> None:
    spec = replace(tiny_model_spec, embed_dim=32)
    exact, small = (
        started(spec, params("full")),
        started(spec, params("full", optimizer="adamw8bit")),
    )
    start = {n: t.clone() for n, t in exact.model.state_dict().items()}
    for state, kind in ((exact, "adamw"), (small, "adamw8bit")):
        train(state, params("full", optimizer=kind))
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert any(
        value.dtype == torch.uint8
        for moments in small.optimizer.state.values()
        for value in moments.values()
        if isinstance(value, torch.Tensor)
    )
    moved = exact.model.state_dict()[name] - start[name]
    error = small.model.state_dict()[name] - exact.model.state_dict()[name]
    assert 0 < error.norm() < 0.1 * moved.norm()


def files(folder: Path, model: PoseModel) -> Path:
    """data/weights/start.safetensors with the model's backbone, in a project's folder."""
    start = folder / "data" / "weights" / "start.safetensors"
    start.parent.mkdir(parents=True)
    (folder / "models").mkdir()
    backbone = {n: t for n, t in model.state_dict().items() if n.startswith("backbone.")}
    save_weights(start, backbone, {})
    return start.relative_to(folder)


@pytest.mark.parametrize("finetune", ["full", "lora", "head"])
@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_each_phase_starts_where_the_one_before_ended(
    tmp_path: Path, monkeypatch, tiny_model_spec: ModelSpec, finetune: str, dtype: str
) -> None:
    """Phase 1, phase 2 and stage 2, each from the file before."""
    monkeypatch.chdir(tmp_path)
    settings = params(finetune, dtype=dtype)
    model = fresh(tiny_model_spec)
    exact = {n: t.clone() for n, t in model.state_dict().items()}
    base = freeze_for_phase1_(model, settings, start := files(tmp_path, model))
    assert (base is None) == (finetune == "full" and dtype == "float32")
    path = Path("models/phase1.safetensors")
    save_weights(path, saved_weights(model, base), {}, base)
    for name in ("phase2", "ssl"):
        before, model = read_weights(path), fresh(tiny_model_spec)
        base = load_for_training_(model, settings, path)
        assert (base is None) == (finetune == "full")
        if finetune == "full":
            assert all(torch.equal(t, exact[n]) for n, t in before.items())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.01
        path = Path(f"models/{name}.safetensors")
        save_weights(path, saved_weights(model, base), {}, base)
        merged = fresh(tiny_model_spec)
        load_model(merged, path)
        moved = {n for n, t in merged.state_dict().items() if not torch.equal(t, before[n])}
        assert ("backbone.blocks.0.attn.qkv.weight" in moved) == (finetune != "head")
        assert "head.final_layer.weight" in moved
        exact = merged.state_dict()
    found = read_base(path)
    assert (found and found.file) == (None if finetune == "full" else start.as_posix())


def test_adapters_need_a_file_that_names_its_base(tmp_path: Path, tiny_model_spec) -> None:
    path = tmp_path / "phase1.safetensors"
    save_weights(path, fresh(tiny_model_spec).state_dict(), {})
    with pytest.raises(PoseError, match=r"has all weights, but train.finetune = 'lora' builds"):
        load_for_training_(fresh(tiny_model_spec), params("lora"), path)


def test_phase_1_saves_the_head_alone(tmp_path: Path, tiny_model_spec) -> None:
    model = fresh(tiny_model_spec)
    settings = params("head")
    base = freeze_for_phase1_(model, settings, tmp_path / files(tmp_path, model))
    assert {name.split(".")[0] for name in saved_weights(model, base)} == {"head"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.frozen_dtype": "bf16"}, "but train.amp = 'none' computes in float32; set"),
        (
            {"model.frozen_dtype": "bf16", "train.amp": "bf16", "train.parallel": "fsdp"},
            "cannot be used with train.parallel = 'fsdp'",
        ),
        (
            {"train.optimizer": "adamw8bit", "train.parallel": "fsdp"},
            "train.optimizer = 'adamw8bit' cannot be used with parallel = 'fsdp'",
        ),
        (
            {"train.optimizer": "adamw8bit", "train.on_bad_step": "skip"},
            "cannot be used with on_bad_step = 'skip'; use adamw, or on_bad_step: stop",
        ),
        (
            {"train.finetune": "lora", "lora.targets": "[qkv, wq]"},
            "lora.targets has 'wq', expected some of qkv, proj, fc1, fc2 for model.family = 'vit'",
        ),
        (
            {"train.finetune": "lora", "lora.pos_embed": "true", "model.family": "sapiens2"},
            "lora.pos_embed = true: family sapiens2 has none",
        ),
        ({"train.finetune": "some"}, 'train.finetune = "some", expected'),
    ],
)
def test_settings_that_cannot_serve(
    bent_params: Any, changes: dict[str, str | None], expected: str
) -> None:
    with pytest.raises(PoseError) as caught:
        load_params(bent_params(changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["vit", "sapiens2"])
@pytest.mark.parametrize("dora", [False, True])
def test_compiled_adapters_learn_resume_and_merge(
    tmp_path: Path, tiny_model_spec: ModelSpec, family: str, dora: bool
) -> None:
    """With the graphs of torch.compile, run without its code generator, as one compilation."""
    torch._dynamo.reset()
    settings = params("lora", family)
    settings = settings.model_copy(update={"lora": changed(settings.lora, dropout=0.0, dora=dora)})
    plain, compiled, resumed = (started(tiny_model_spec, settings) for _ in range(3))
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for part in (*compiled.model.backbone.blocks, *resumed.model.backbone.blocks):
        part.compile(backend=counting)
    path = tmp_path / "state.pt"
    train(plain, settings)
    train(compiled, settings, STEPS, lambda s: checkpoint.save_training_state(path, s.to_dict()))
    assert 0 < len(graphs) < 2 * len(compiled.model.backbone.blocks)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    losses = [[row["loss"] for row in state.history] for state in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    resumed.restore_(checkpoint.read_training_state(path))
    train(resumed, settings)
    for name, tensor in compiled.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    merged = fresh(tiny_model_spec, family)
    own = saved_weights(compiled.model, Base("a", "b"))
    frozen = fresh(tiny_model_spec, family).state_dict()
    merged.load_state_dict(merge(frozen, own, Base("a", "b", alpha=settings.lora.alpha)))
    images = torch.randn(2, 3, 32, 24)
    found, expected = merged.eval()(images), compiled.model.eval()(images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
