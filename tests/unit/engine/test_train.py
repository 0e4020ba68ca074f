"""What params ask of the keypoints is checked before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import load_params
from pose.common.skeleton import build_skeleton
from pose.data import build
from pose.engine import train
from pose.engine import train as engine_train
from pose.engine.fit import TrainState
from pose.models import build as models_build
from pose.models.checkpoint import read_provenance, read_weights

MOUSE = build_skeleton(("nose", "tail"), (), None, None, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "augment.min_keypoints = 4, but there are only 2 keypoints; lower it"),
        ({"half_body_prob": "0.3"}, "augment.half_body_prob = 0.3, but these 2 keypoints have no"),
    ],
)
def test_what_the_keypoints_cannot_give(bent_params, changes: dict, expected: str) -> None:
    params = load_params(bent_params({f"augment.{key}": v for key, v in changes.items()}))
    with pytest.raises(PoseError) as caught:
        build.check_augment(params.augment, MOUSE)
    assert str(caught.value).startswith(f"params.yaml: {expected}")


def test_more_keypoints_than_there_are_for_a_half_body(bent_params) -> None:
    changes = {"augment.half_body_prob": "0.3", "augment.min_keypoints": "1"}
    halved = replace(MOUSE, upper_body=(0,), lower_body=(1,))
    with pytest.raises(PoseError, match=r"half_body_min_keypoints = 9, but there are only 2"):
        build.check_augment(load_params(bent_params(changes)).augment, halved)


@pytest.mark.parametrize(("kind", "maps"), [("gaussian", 2), ("combined", 6)])
def test_the_head_has_the_maps_of_the_keypoints(bent_params, kind: str, maps: int) -> None:
    params = load_params(bent_params({"codec.type": kind}))
    assert models_build.build_model(params, MOUSE).head.final_layer.out_channels == maps


def test_the_loss_weight_is_that_of_params(bent_params) -> None:
    params = load_params(bent_params({"train.loss_weight": "10", "train.accumulate": "2"}))
    found = train.step_gradients(params, torch.device("cpu"))
    assert (found.loss_weight, found.accumulate) == (10.0, 2)


# memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_too_little_memory_names_memory_settings(bent_params, error: RuntimeError) -> None:
    changes = {
        "model.grad_checkpointing": "true",
        "train.accumulate": "4",
        "train.ema_decay": "0.9",
    }
    params = load_params(bent_params(changes))
    with pytest.raises(PoseError) as caught, train.out_of_memory_advice(params):
        raise error
    said = str(caught.value)
    assert "\n" not in said
    assert "out of memory. Tried to allocate 2.00 GiB;" in said or "can't allocate memory;" in said
    assert (
        "change one of train.accumulate = 4 (more), train.amp = none (bf16), train.parallel" in said
    )
    assert "train.ema_decay = 0.9 (0), train.batch_size = 8 (less)" in said
    assert "grad_checkpointing" not in said  # it is on


def test_other_errors_pass(bent_params) -> None:
    with (
        pytest.raises(RuntimeError, match="shapes"),
        train.out_of_memory_advice(load_params(bent_params({}))),
    ):
        raise RuntimeError("shapes do not match")


# best and last


@pytest.mark.parametrize(("keep", "expected"), [("last", (2.0, 1.0)), ("best", (1.0, 2.0))])
def test_best_and_last_are_both_kept(tmp_path: Path, monkeypatch, keep: str, expected) -> None:
    monkeypatch.setattr(stage, "MODELS", tmp_path)
    state = TrainState(None, None)  # type: ignore[arg-type]
    state.best = {"step": 3.0, "val_AP": 0.5, "weights": {"a": torch.tensor([1.0])}}
    engine_train._save_models(
        "train_phase2", keep, state, {"a": torch.tensor([2.0])}, {"source": "x"}
    )
    names = ("phase2.safetensors", "phase2_other.safetensors")
    assert tuple(read_weights(tmp_path / name)["a"].item() for name in names) == expected
    assert read_provenance(tmp_path / names[0]) == {"source": "x"}


def test_without_a_best_both_files_are_the_last(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stage, "MODELS", tmp_path)
    state = TrainState(None, None)  # type: ignore[arg-type]
    engine_train._save_models("train_ssl", "last", state, {"a": torch.tensor([2.0])}, {})
    one, other = (tmp_path / f"ssl{end}.safetensors" for end in ("", "_other"))
    assert one.read_bytes() == other.read_bytes()


def test_best_needs_a_measure(bent_params) -> None:
    changes = {"train.keep": "best", "train.val_epochs": "0"}
    with pytest.raises(PoseError, match=r"train.keep = 'best', but val_epochs = 0 .* set val_epo"):
        load_params(bent_params(changes))
