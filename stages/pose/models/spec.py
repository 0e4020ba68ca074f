"""Sizes of a model, read from params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from pose.common.params import Params


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of a model, named as in params.yaml's `model`, and the input size (w, h) in pixels."""

    input_wh: tuple[int, int]
    patch_size: int
    patch_padding: int
    embed_dim: int
    depth: int
    num_heads: int
    drop_path: float
    head: str  # see heads.HEADS
    deconv_channels: tuple[int, ...]
    conv_channels: tuple[int, ...]
    grad_checkpointing: bool
    maps_per_keypoint: int  # 1, or 3 for the combined codec
    num_keypoints: int  # K
    family: str = "vit"
    mlp_dim: int | None = None
    rope_dtype: str = "bf16"

    @property
    def hidden_dim(self) -> int:
        """Hidden size of the blocks' MLP."""
        return self.mlp_dim or 4 * self.embed_dim


def model_spec(params: Params, num_keypoints: int) -> ModelSpec:
    """Sizes of the model of params."""
    model, codec = params.model, params.codec
    return ModelSpec(
        input_wh=codec.input_size,
        patch_size=model.patch_size,
        patch_padding=model.patch_padding,
        embed_dim=model.embed_dim,
        depth=model.depth,
        num_heads=model.num_heads,
        drop_path=model.drop_path,
        head=model.head,
        deconv_channels=model.deconv_channels,
        conv_channels=model.conv_channels,
        grad_checkpointing=model.grad_checkpointing,
        maps_per_keypoint=codec.maps_per_keypoint,
        num_keypoints=num_keypoints,
        family=model.family,
        mlp_dim=model.mlp_dim,
        rope_dtype=model.rope_dtype,
    )
