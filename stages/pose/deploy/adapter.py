"""An adapter in peft's own layout, for other tools: adapter_config.json, adapter_model.safetensors.

peft.PeftModel.from_pretrained(model_with_the_base_weights, "exported/adapter")
"""

from __future__ import annotations

from pathlib import Path

from pose.common.files import write_json
from pose.models.adapter import LORA_A, MAGNITUDE, Base, State
from pose.models.checkpoint import save_weights

ADAPTER = "adapter"
POS_EMBED = "backbone.pos_embed"
PREFIX = "base_model.model."  # of a model in peft's wrapper


def write_adapter(folder: Path, own: State, base: Base) -> bool:
    """Write what was trained, as a folder that peft loads; returns whether it could.

    Not without adapters, and not with a trained position embedding: peft's files have modules only.
    """
    layers = [name.removesuffix(LORA_A) for name in own if name.endswith(LORA_A)]
    if not layers or POS_EMBED in own:
        return False
    folder.mkdir()
    write_json(folder / "adapter_config.json", _config(layers, own, base))
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in own.items()}
    save_weights(folder / "adapter_model.safetensors", tensors, {"base": base.file})
    return True


def _config(layers: list[str], own: State, base: Base) -> dict[str, object]:
    """peft's settings; modules_to_save are those that were trained as a whole."""
    whole = {_module(name) for name in own if ".lora_" not in name}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base.file,
        "r": len(own[layers[0] + LORA_A]),
        "lora_alpha": base.alpha,
        "lora_dropout": 0.0,
        "use_dora": layers[0] + MAGNITUDE in own,
        "target_modules": layers,
        "modules_to_save": sorted(whole),
        "inference_mode": True,
    }


def _module(name: str) -> str:
    """The head as a whole; of the backbone the layer that has the tensor."""
    return "head" if name.startswith("head.") else name.rpartition(".")[0]
