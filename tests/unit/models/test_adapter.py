"""Adapters start at difference 0, merge as peft merges them, and files name their base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pose.common.errors import PoseError
from pose.common.params import Lora
from pose.models.adapter import (
    Base,
    add_adapters_,
    base_of,
    cast_frozen_,
    file_name,
    load_adapters_,
    merge,
    trained_names,
)
from pose.models.checkpoint import load_model, read_own, read_weights, save_weights
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from sections import DEFAULT, changed

FAMILIES = pytest.mark.parametrize("family", ["vit", "sapiens2"])
DORA = pytest.mark.parametrize("dora", [False, True])


def lora(**changes) -> Lora:
    return changed(DEFAULT.lora, **{"rank": 4, "alpha": 8.0} | changes)


def fresh(spec: ModelSpec, family: str) -> PoseModel:
    torch.manual_seed(0)
    model = PoseModel(replace(spec, family=family, rope_dtype="fp32"))
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    return model.eval()


def learn_(model: PoseModel) -> None:
    """Move all that is trained, as a training would."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


def own_of(model: PoseModel) -> dict[str, torch.Tensor]:
    names = trained_names(model)
    return {file_name(n): t for n, t in model.state_dict().items() if n in names}


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))


@FAMILIES
@DORA
def test_adapters_start_at_no_difference_and_merge(
    tiny_model_spec: ModelSpec, family: str, dora: bool
) -> None:
    model, merged = fresh(tiny_model_spec, family), fresh(tiny_model_spec, family)
    before, frozen = model(images()), {n: t.clone() for n, t in model.state_dict().items()}
    add_adapters_(model, lora(dora=dora), family)
    assert torch.equal(model(images()), before)
    learn_(model)
    after = model(images())
    assert (after - before).abs().max() > 0.1
    merged.load_state_dict(merge(frozen, own_of(model), Base("a", "b", alpha=8.0)))
    torch.testing.assert_close(merged(images()), after, atol=1e-6, rtol=1e-6)


@FAMILIES
def test_what_is_trained(tiny_model_spec: ModelSpec, family: str) -> None:
    def trained(**changes) -> set[str]:
        model = fresh(tiny_model_spec, family)
        add_adapters_(model, lora(**changes), family)
        return {name for name in own_of(model) if not name.startswith("head.")}

    layers = 2 * (4 if family == "vit" else 6)
    plain, some = trained(), trained(targets=("proj",))
    assert len(plain) == 2 * layers
    assert {name.rsplit(".", 2)[0] for name in some} == {
        f"backbone.blocks.{block}.attn.proj" for block in (0, 1)
    }
    norms = trained(norms=True) - plain
    expected = ["norm.weight", "blocks.1.norm2.weight"]
    expected += ["blocks.0.attn.k_norm.weight"] if family == "sapiens2" else ["norm.bias"]
    assert {f"backbone.{name}" for name in expected} <= norms
    assert all("norm" in name for name in norms)
    if family == "vit":
        assert trained(pos_embed=True) - plain == {"backbone.pos_embed"}


def test_the_head_is_trained_as_a_whole(tiny_model_spec: ModelSpec) -> None:
    model = fresh(tiny_model_spec, "vit")
    add_adapters_(model, lora(), "vit")
    assert all(parameter.requires_grad for parameter in model.head.parameters())


@FAMILIES
@DORA
def test_bf16_weights_merge_as_they_were_trained(
    tiny_model_spec: ModelSpec, family: str, dora: bool
) -> None:
    model, merged = fresh(tiny_model_spec, family), fresh(tiny_model_spec, family)
    frozen = {n: t.clone() for n, t in model.state_dict().items()}
    add_adapters_(model, lora(dora=dora, norms=True), family)
    cast_frozen_(model, "bf16")
    types = {n: p.dtype for n, p in model.named_parameters() if p.dtype != torch.float32}
    assert {*types.values()} == {torch.bfloat16}
    assert all("base_layer.weight" in n or n.startswith("backbone.patch_embed") for n in types)
    learn_(model)
    merged.load_state_dict(merge(frozen, own_of(model), Base("a", "b", "bf16", alpha=8.0)))
    exact = {file_name(n): t.float() for n, t in model.state_dict().items()}
    for name in types:
        assert torch.equal(exact[file_name(name)], exact[file_name(name)].bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = merged(images()), model(images())
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_autocast_trains_adapters_on_bf16_weights(tiny_model_spec: ModelSpec) -> None:
    model = fresh(tiny_model_spec, "vit").train()
    add_adapters_(model, lora(), "vit")
    cast_frozen_(model, "bf16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images()).float().square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert gradients["backbone.blocks.0.attn.qkv.lora_B.default.weight"].abs().max() > 0


def test_adapters_of_a_file_go_on(tiny_model_spec: ModelSpec) -> None:
    trained, other = fresh(tiny_model_spec, "vit"), fresh(tiny_model_spec, "vit")
    for model in (trained, other):
        add_adapters_(model, lora(), "vit")
    learn_(trained)
    load_adapters_(other, own_of(trained))
    name = "backbone.blocks.1.mlp.fc2.lora_B.default.weight"
    assert torch.equal(other.state_dict()[name], trained.state_dict()[name])
    load_adapters_(other, {})
    narrow = fresh(tiny_model_spec, "vit")
    add_adapters_(narrow, lora(rank=2), "vit")
    with pytest.raises(PoseError, match="does not fit; check lora"):
        load_adapters_(narrow, own_of(trained))


# files


@pytest.fixture
def project(tmp_path: Path, tiny_model_spec: ModelSpec) -> tuple[Path, PoseModel]:
    """A model file of adapters and head in a project, and the model that it was saved from."""
    model = fresh(tiny_model_spec, "vit")
    weights = tmp_path / "data" / "weights" / "start.safetensors"
    weights.parent.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    backbone = {n: t for n, t in model.state_dict().items() if n.startswith("backbone.")}
    save_weights(weights, backbone, {})
    add_adapters_(model, lora(), "vit")
    learn_(model)
    base = replace(base_of(weights, "float32"), file="data/weights/start.safetensors", alpha=8.0)
    path = tmp_path / "models" / "ssl.safetensors"
    save_weights(path, own_of(model), {"source": "x"}, base)
    return path, model


def test_a_file_of_adapters_loads_as_any_other(project, tiny_model_spec: ModelSpec) -> None:
    path, trained = project
    model = fresh(tiny_model_spec, "vit")
    load_model(model, path)
    torch.testing.assert_close(model(images()), trained(images()), atol=1e-6, rtol=1e-6)
    assert not any("pos_embed" in name for name in read_own(path))


def test_a_file_beside_its_base(project, tmp_path: Path) -> None:
    path, _ = project
    away = tmp_path / "away" / "somewhere"
    away.mkdir(parents=True)
    moved = path.rename(away / "mine.safetensors")
    with pytest.raises(PoseError) as caught:
        read_weights(moved)
    assert "needs data/weights/start.safetensors of sha256 " in str(caught.value)
    beside = away / "start.safetensors"
    assert f"no such file: copy it to {tmp_path / 'away'}" in str(caught.value)
    assert str(caught.value).endswith(f" or {beside}")
    beside.write_bytes((tmp_path / "data/weights/start.safetensors").read_bytes())
    assert "backbone.pos_embed" in read_weights(moved)


def test_another_base_is_refused_by_its_digest(project, tmp_path: Path) -> None:
    path, _ = project
    base = tmp_path / "data" / "weights" / "start.safetensors"
    state = read_own(base)
    state["backbone.pos_embed"] += 1e-6
    save_weights(base, state, {})
    with pytest.raises(PoseError) as caught:
        read_weights(path)
    actual = base_of(base, "float32").sha256
    assert f"but {base} has {actual}; copy the right file there" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "{}",
        '{"file": 3, "sha256": "a"}',
        '{"file": "/etc/x", "sha256": "a"}',
        '{"file": "../x", "sha256": "a"}',
        '{"file": "x", "sha256": "a", "frozen_dtype": "fp4"}',
    ],
)
def test_metadata_of_others_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"base": text})
    with pytest.raises(PoseError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "copy it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_a_whole_model_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, {"b": 1})
    with safetensors.safe_open(path, "pt") as stream:
        assert stream.metadata() == {"provenance": json.dumps({"b": 1})}
