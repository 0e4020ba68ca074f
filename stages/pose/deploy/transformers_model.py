"""A trained model as transformers' VitPoseForPoseEstimation or Sapiens2ForPoseEstimation.

Names of tensors are the inverse of pretrained.names, which reads such files. What the classes have
fixed was read in transformers 5.24. This module does not import transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import safetensors.torch
from torch.nn import functional as F

from pose.common.errors import PoseError
from pose.common.files import write_json
from pose.common.skeleton import Skeleton
from pose.deploy.manifest import Manifest
from pose.models.checkpoint import State
from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD, build_on_meta
from pose.models.sapiens2 import BASE_PERIOD, EPS, STORAGE_TOKENS, kv_heads
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
CLASSES = {"vit": "VitPoseForPoseEstimation", "sapiens2": "Sapiens2ForPoseEstimation"}
PROCESSORS = {"vit": "VitPoseImageProcessor", "sapiens2": "Sapiens2ImageProcessor"}
POSITIONS = "backbone.embeddings.position_embeddings"
NAMES = {  # by family: our names and theirs, applied in this order
    "vit": (
        (r"^backbone\.pos_embed$", POSITIONS),
        (r"^backbone\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
        (r"^backbone\.norm\.", "backbone.layernorm."),
        (r"^backbone\.blocks\.", "backbone.encoder.layer."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"^head\.deconv_layers\.0\.", "head.deconv1."),
        (r"^head\.deconv_layers\.1\.", "head.batchnorm1."),
        (r"^head\.deconv_layers\.3\.", "head.deconv2."),
        (r"^head\.deconv_layers\.4\.", "head.batchnorm2."),
        (r"^head\.final_layer\.", "head.conv."),
    ),
    "sapiens2": (
        (r"^backbone\.patch_embed\.proj\.", "model.embeddings.patch_embeddings."),
        (r"^backbone\.cls_token$", "model.embeddings.cls_token"),
        (r"^backbone\.storage_tokens$", "model.embeddings.register_tokens"),
        (r"^backbone\.norm\.", "model.norm."),
        (r"^backbone\.blocks\.", "model.model.layer."),
        (r"\.attn\.w([qkv])\.", r".attention.\1_proj."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.([qk])_norm\.", r".attention.\1_norm."),
        (r"\.attn\.gamma$", ".layer_scale1.lambda1"),
        (r"\.ffn\.w3\.", ".mlp.down_proj."),
        (r"^head\.final_layer\.", "decode_head.predictor."),
    ),
}
SPLIT = {  # one layer of ours, and theirs that hold its rows
    "vit": (".attn.qkv.", tuple(f".attention.attention.{r}." for r in ("query", "key", "value"))),
    "sapiens2": (".ffn.w12.", (".mlp.gate_proj.", ".mlp.up_proj.")),
}
SAPIENS2_HEAD = re.compile(r"^head\.(deconv|conv)_layers\.(\d+)\.")
HEAD_STEP = 3  # convolution, norm, activation


def require_expressible(manifest: Manifest) -> None:
    """Raise PoseError that names the first setting which the class of the family cannot have."""
    spec, codec = manifest.model, manifest.codec
    checks = [
        ("codec.type", codec.type, codec.type == "gaussian", "gaussian"),
        ("augment.bbox_padding", manifest.bbox_padding, manifest.bbox_padding == 1.25, "1.25"),
        *(_vit_checks(spec) if spec.family == "vit" else _sapiens2_checks(spec)),
    ]
    interpolation = "linear" if spec.family == "vit" else "cubic"
    fits = codec.interpolation == interpolation
    checks.append(("codec.interpolation", codec.interpolation, fits, interpolation))
    for key, value, fits, expected in checks:
        if not fits:
            raise PoseError(
                f"params.yaml: {key} = {value}, but {CLASSES[spec.family]} of transformers has "
                f"{expected}; export without --format transformers"
            )


def _vit_checks(spec: ModelSpec) -> list[tuple[str, Any, bool, str]]:
    deconvs, convs = list(spec.deconv_channels), list(spec.conv_channels)
    multiple = spec.hidden_dim % spec.embed_dim == 0
    checks = [
        ("model.head", spec.head, spec.head in ("classic", "simple"), "classic or simple"),
        ("model.patch_padding", spec.patch_padding, spec.patch_padding == 2, "2"),
        ("model.patch_size", spec.patch_size, spec.patch_size > 4, "more than 4"),
        ("model.mlp_dim", spec.hidden_dim, multiple, "a multiple of embed_dim"),
    ]
    if spec.head == "classic":
        checks.append(("model.deconv_channels", deconvs, deconvs == [256, 256], "[256, 256]"))
        checks.append(("model.conv_channels", convs, not convs, "[]"))
    return checks


def _sapiens2_checks(spec: ModelSpec) -> list[tuple[str, Any, bool, str]]:
    deconvs = list(spec.deconv_channels)
    return [
        ("model.head", spec.head, spec.head == "sapiens", "sapiens"),
        ("model.patch_padding", spec.patch_padding, spec.patch_padding == 0, "0"),
        ("model.deconv_channels", deconvs, bool(deconvs), "at least one"),
    ]


def write_transformers(manifest: Manifest, state: State, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json of a model's weights.

    Raises PoseError if transformers has no class for the model. The file is what
    pretrained.convert reads back as the same tensors.
    """
    require_expressible(manifest)
    spec = manifest.model
    renamed = rename_state(state, spec.family)
    restored, _ = convert(renamed, build_on_meta(spec), True, names=manifest.skeleton.names)
    assert restored.keys() == state.keys()
    assert all(restored[name].equal(tensor) for name, tensor in state.items())
    safetensors.torch.save_file(renamed, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / CONFIG, config_of(spec, manifest.skeleton))
    write_json(folder / PROCESSOR, processor_of(spec))


def rename_state(state: State, family: str) -> State:
    """The tensors with transformers' names."""
    layer, parts = SPLIT[family]
    renamed: State = {}
    for name, tensor in state.items():
        if layer in name:
            for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
                renamed[_their_name(name.replace(layer, part), family)] = rows.contiguous()
        else:
            renamed[_their_name(name, family)] = tensor
    if family == "vit":  # its class adds the first row, the class token's, to all others
        renamed[POSITIONS] = F.pad(renamed[POSITIONS], (0, 0, 1, 0))
    return renamed


def _their_name(name: str, family: str) -> str:
    if family == "sapiens2":
        name = SAPIENS2_HEAD.sub(_sapiens2_layer, name)
    for pattern, replacement in NAMES[family]:
        name = re.sub(pattern, replacement, name)
    return name


def _sapiens2_layer(match: re.Match[str]) -> str:
    part = "upsample" if match[1] == "deconv" else "conv"
    return f"decode_head.{part}_layers.{int(match[2]) // HEAD_STEP}.convolution."


def config_of(spec: ModelSpec, skeleton: Skeleton) -> dict[str, Any]:
    """Content of config.json."""
    labels = {
        "architectures": [CLASSES[spec.family]],
        "dtype": "float32",
        "id2label": dict(enumerate(skeleton.names)),
        "label2id": {name: index for index, name in enumerate(skeleton.names)},
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "edges": [list(limb) for limb in skeleton.limbs],
    }
    return labels | (_vitpose_config(spec) if spec.family == "vit" else _sapiens2_config(spec))


def _vitpose_config(spec: ModelSpec) -> dict[str, Any]:
    width, height = spec.input_wh
    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": [height, width],
        "patch_size": [spec.patch_size, spec.patch_size],
        "hidden_size": spec.embed_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "mlp_ratio": spec.hidden_dim // spec.embed_dim,
        "layer_norm_eps": 1e-6,
        "out_indices": [spec.depth],
    }
    simple = spec.head == "simple"
    return {
        "model_type": "vitpose",
        "backbone_config": backbone,
        "use_simple_decoder": simple,
        "scale_factor": 4,
    }


def _sapiens2_config(spec: ModelSpec) -> dict[str, Any]:
    width, height = spec.input_wh
    deconvs, convs = list(spec.deconv_channels), list(spec.conv_channels)
    return {
        "model_type": "sapiens2",
        "image_size": [height, width],
        "patch_size": spec.patch_size,
        "hidden_size": spec.embed_dim,
        "intermediate_size": spec.hidden_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads_per_layer": [kv_heads(spec, i) for i in range(spec.depth)],
        "num_register_tokens": STORAGE_TOKENS,
        "rms_norm_eps": EPS,
        "rope_theta": BASE_PERIOD,
        "use_gated_mlp": True,
        "use_qk_norm": True,
        "head_config": {"upsample_out_channels": deconvs, "conv_out_channels": convs},
    }


def processor_of(spec: ModelSpec) -> dict[str, Any]:
    """Content of preprocessor_config.json."""
    width, height = spec.input_wh
    return {
        "image_processor_type": PROCESSORS[spec.family],
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in PIXEL_MEAN],
        "image_std": [value / 255 for value in PIXEL_STD],
    }
