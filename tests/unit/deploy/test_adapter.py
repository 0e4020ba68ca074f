"""peft loads the folder of an exported adapter onto the base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pose.deploy.adapter import write_adapter
from pose.models.adapter import Base, add_adapters_, file_name, trained_names
from pose.models.pose_model import PoseModel
from sections import DEFAULT, changed
from tiny_model import random_model


def trained(**changes) -> tuple[PoseModel, dict[str, torch.Tensor]]:
    """A model whose adapters and head have moved, and the tensors of its file."""
    model = random_model()
    add_adapters_(model, changed(DEFAULT.lora, **{"rank": 4, "alpha": 8.0} | changes), "vit")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    names = trained_names(model)
    return model, {file_name(n): t for n, t in model.state_dict().items() if n in names}


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"norms": True, "targets": ("qkv",)}])
def test_peft_loads_what_was_written(tmp_path: Path, changes: dict) -> None:
    model, own = trained(**changes)
    base = Base("data/weights/start.safetensors", "0" * 64, alpha=8.0)
    assert write_adapter(tmp_path / "adapter", own, base)
    import peft  # takes seconds, which collecting tests does not wait for

    loaded = peft.PeftModel.from_pretrained(random_model(), tmp_path / "adapter").eval()
    images = torch.randn(2, 3, 32, 24)
    torch.testing.assert_close(loaded(images), model(images), atol=1e-6, rtol=1e-6)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    assert config["base_model_name_or_path"] == "data/weights/start.safetensors"


def test_what_peft_cannot_hold_is_not_written(tmp_path: Path) -> None:
    _, own = trained(pos_embed=True)
    head = {name: tensor for name, tensor in own.items() if name.startswith("head.")}
    for tensors in (own, head):
        assert not write_adapter(tmp_path / "adapter", tensors, Base("a", "b", alpha=8.0))
    assert not (tmp_path / "adapter").exists()
