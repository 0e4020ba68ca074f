"""Our names for the tensors of other projects' checkpoints (keys as in the projects' own files).

- Sapiens and mmpose 1.x (mmpretrain names): `layers.N.ln1`, `ffn.layers.0.0`, final norm `ln1`;
- ViTPose, mmpose 0.x: timm's names with `last_norm`, `keypoint_head`;
- Hugging Face ViTPose: `encoder.layer.N`, separate query, key, value;
- timm and MAE ViTs: timm's names with `norm`;
- Sapiens2: `blocks.N.attn.wq`, `decode_head`; in transformers `layer.N`, `register_tokens`.
"""

from __future__ import annotations

import re

import torch

from pose.models.checkpoint import State

RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^keypoint_head\.", "head."),
        # mmpretrain: Sapiens, mmpose 1.x
        (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
        (r"^backbone\.layers\.(\d+)\.ln([12])\.", r"backbone.blocks.\1.norm\2."),
        (r"^backbone\.layers\.(\d+)\.attn\.", r"backbone.blocks.\1.attn."),
        (r"^backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r"backbone.blocks.\1.mlp.fc1."),
        (r"^backbone\.layers\.(\d+)\.ffn\.layers\.1\.", r"backbone.blocks.\1.mlp.fc2."),
        (r"^backbone\.(ln1|last_norm|layernorm)\.", "backbone.norm."),
        # Hugging Face ViTPose
        (r"^backbone\.embeddings\.position_embeddings$", "backbone.pos_embed"),
        (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
        (r"^backbone\.encoder\.layer\.", "backbone.blocks."),
        (r"(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
        (r"(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
        (r"(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
        (r"^head\.deconv1\.", "head.deconv_layers.0."),
        (r"^head\.batchnorm1\.", "head.deconv_layers.1."),
        (r"^head\.deconv2\.", "head.deconv_layers.3."),
        (r"^head\.batchnorm2\.", "head.deconv_layers.4."),
        (r"^head\.conv\.", "head.final_layer."),
        # Sapiens2
        (r"^(backbone\.blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
        (r"\.attn\.gamma\.weight$", ".attn.gamma"),
        (r"^decode_head\.(?:conv_pose|predictor)\.", "head.final_layer."),  # or transformers' name
        (r"^decode_head\.(?=(?:de)?conv_layers\.)", "head."),
        # transformers' Sapiens2
        (r"^backbone\.model\.(?=embeddings\.|norm\.|(model\.)?layer\.)", "backbone."),
        (r"^backbone\.embeddings\.cls_token$", "backbone.cls_token"),
        (r"^backbone\.embeddings\.register_tokens$", "backbone.storage_tokens"),
        (
            r"^backbone\.embeddings\.patch_embeddings\.(weight|bias)$",
            r"backbone.patch_embed.proj.\1",
        ),
        (r"^backbone\.(?:model\.)?layer\.", "backbone.blocks."),
        (r"(blocks\.\d+)\.attention\.([qkv])_proj\.", r"\1.attn.w\2."),
        (r"(blocks\.\d+)\.attention\.([qk])_norm\.", r"\1.attn.\2_norm."),
        (r"(blocks\.\d+)\.attention\.o_proj\.", r"\1.attn.proj."),
        (r"(blocks\.\d+)\.layer_scale1\.lambda1$", r"\1.attn.gamma"),
        (r"(blocks\.\d+)\.mlp\.down_proj\.", r"\1.ffn.w3."),
    )
]
HF_HEAD = re.compile(r"^decode_head\.(upsample|conv)_layers\.(\d{1,2})\.convolution\.")
HF_HEAD_STEP = 3  # convolution, norm, activation
HF_SWIGLU = re.compile(r"^(backbone\.blocks\.\d+)\.mlp\.(gate|up)_proj\.(.+)$")
HF_QKV = re.compile(r"^(backbone\.blocks\.\d+)\.attention\.attention\.(query|key|value)\.(.+)$")
HEADS = ("keypoint_head.", "decode_head.")


def our_names(state: State) -> State:
    """The same tensors with our names; names of the backbone start with `backbone.`."""
    prefixed = any(name.startswith("backbone.") for name in state)
    renamed: State = {}
    for name, tensor in state.items():
        bare = name if prefixed or name.startswith(HEADS) else f"backbone.{name}"
        bare = HF_HEAD.sub(_official_layer, bare)
        for pattern, replacement in RENAMES:
            bare = pattern.sub(replacement, bare)
        renamed[bare] = tensor
    renamed = _stack(renamed, HF_QKV, "attn.qkv", ("query", "key", "value"))
    return _rename_final(_stack(renamed, HF_SWIGLU, "ffn.w12", ("gate", "up")))


def _official_layer(match: re.Match[str]) -> str:
    part = "deconv" if match[1] == "upsample" else "conv"
    return f"head.{part}_layers.{HF_HEAD_STEP * int(match[2])}."


def _stack(state: State, pattern: re.Pattern[str], name: str, roles: tuple[str, ...]) -> State:
    """Layers that Hugging Face keeps apart, stacked in the order of `roles` as one layer `name`."""
    stacked = {key: tensor for key, tensor in state.items() if not pattern.match(key)}
    parts: dict[str, State] = {}
    for key, tensor in state.items():
        if match := pattern.match(key):
            block, role, kind = match.groups()
            parts.setdefault(f"{block}.{name}.{kind}", {})[role] = tensor
    for key, found in parts.items():
        if len(found) == len(roles) and len({(t.shape, t.dtype) for t in found.values()}) == 1:
            stacked[key] = torch.cat([found[role] for role in roles])
    return stacked


def _rename_final(state: State) -> State:
    """mmpose 0.x's final_layer.N: the last is our final_layer, the others are conv_layers."""
    pattern = re.compile(r"^head\.final_layer\.(\d{1,4})\.")
    last = max((int(m[1]) for name in state if (m := pattern.match(name))), default=0)

    def ours(match: re.Match[str]) -> str:
        number = int(match[1])
        return "head.final_layer." if number == last else f"head.conv_layers.{number}."

    return {pattern.sub(ours, name): tensor for name, tensor in state.items()}
