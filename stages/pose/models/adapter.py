"""Adapters (LoRA, DoRA) and the files of models that are trained only in part.

Such a file holds what was trained, and in its metadata the base: the file with all other weights.
Training adds adapters with peft; merging them into the weights needs no peft. Source: Hu et al.,
ICLR 2022 (LoRA); Liu et al., ICML 2024 (DoRA).
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.common.params import LORA_TARGETS, Lora
from pose.models.pose_model import PoseModel

State = dict[str, Tensor]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
LORA_A, LORA_B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
NORMS = re.compile(r"backbone\.(.*\.)?\w*norm\d?\.(weight|bias)")


@dataclass(frozen=True)
class Base:
    """The weights that a file of trained parts builds on."""

    file: str  # path in the project
    sha256: str
    frozen_dtype: str = "float32"  # of its matrices in training, as model.frozen_dtype
    alpha: float | None = None  # of LoRA; None: no adapters

    def to_json(self) -> str:
        """As stored in the metadata of a safetensors file."""
        return json.dumps(asdict(self), sort_keys=True)


def base_of(path: Path, frozen_dtype: str) -> Base:
    """The base that a file of weights is, by its path from the project's folder."""
    return Base(path.as_posix(), digest(path), frozen_dtype)


def parse_base(text: str | None, path: Path) -> Base | None:
    """The base in the metadata of the file `path`; None without. Raises PoseError if invalid."""
    if text is None:
        return None
    try:
        base = TypeAdapter(Base).validate_json(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise PoseError(
            f"{path}: no valid base in its metadata ({reason}); copy it again"
        ) from None
    parts = PurePosixPath(base.file).parts
    if ".." in parts or parts[:1] == ("/",) or base.frozen_dtype not in DTYPES:
        raise PoseError(f"{path}: its base {base.file!r} is not a file of a project; copy it again")
    return base


def find_base(path: Path, base: Base, given: Path | None = None) -> Path:
    """Where the base of a model file is: `given`, else in the file's project, or beside the file.

    Raises PoseError if it is absent or has another digest.
    """
    in_project = path.absolute().parent.parent / base.file
    beside = path.parent / Path(base.file).name
    places = [given] if given else [in_project, beside]
    found = next((file for file in places if file.is_file()), None)
    wanted = f"{path}: holds only what was trained and needs {base.file} of sha256 {base.sha256}"
    if found is None:
        raise PoseError(f"{wanted}; no such file: copy it to {in_project} or {beside}")
    if (actual := digest(found)) != base.sha256:
        raise PoseError(f"{wanted}, but {found} has {actual}; copy the right file there")
    return found


# --- names: a trained model has peft's names, a file has peft's names without the adapter's


def file_name(live: str) -> str:
    """The name in a file of a tensor of a model with adapters, which is that without adapters.

    >>> file_name("attn.qkv.base_layer.bias"), file_name("attn.qkv.lora_A.default.weight")
    ('attn.qkv.bias', 'attn.qkv.lora_A.weight')
    """
    name = live.replace(".base_layer.", ".").replace(".default.", ".")
    return name.removesuffix(".weight") if f"{MAGNITUDE}." in name else name


def is_adapter(name: str) -> bool:
    """Whether a tensor in a file is a part of an adapter."""
    return name.endswith((LORA_A, LORA_B, MAGNITUDE))


def trained_names(model: nn.Module) -> set[str]:
    """Names in state_dict of the parameters that are trained, and of all buffers."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return set(model.state_dict()) - frozen


# --- training


def add_adapters_(model: PoseModel, lora: Lora, family: str) -> None:
    """Give the blocks' linear layers adapters, and train these, the head and what lora names.

    The output does not change: matrix B of each adapter is 0.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, see engine.optim
    import peft  # imports transformers, which takes seconds

    targets = "|".join(lora.targets or LORA_TARGETS[family])
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float serves too
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=rf"backbone\.blocks\.\d+\.\w+\.({targets})",
    )
    peft.inject_adapter_in_model(config, model)
    for layer in model.modules():  # autocast casts the input once for base and adapter
        if hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = False  # type: ignore[assignment]
    for name, parameter in model.named_parameters():
        if name.startswith("head.") or (lora.norms and NORMS.fullmatch(name)):
            parameter.requires_grad_(True)
        if lora.pos_embed and name == "backbone.pos_embed":
            parameter.requires_grad_(True)


def load_adapters_(model: PoseModel, own: State) -> None:
    """Load the adapters of a file, which may have none, into a model that has their places.

    Raises PoseError if they do not fit.
    """
    adapters = {name: tensor for name, tensor in own.items() if is_adapter(name)}
    places = {file_name(n): t for n, t in model.state_dict().items() if is_adapter(file_name(n))}
    for name, tensor in adapters.items():
        if name not in places or places[name].shape != tensor.shape:
            raise PoseError(f"adapter {name} does not fit; check lora in params.yaml")
        places[name].copy_(tensor)


def cast_frozen_(model: nn.Module, dtype: str) -> None:
    """Store the matrices that are not trained in model.frozen_dtype; the rest stays float32."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and _is_matrix(name, parameter):
            parameter.data = parameter.data.to(DTYPES[dtype])


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Weights of linear and convolution layers; not embeddings, norms and biases."""
    return name.endswith(".weight") and tensor.ndim > 1


# --- merging


def merge(frozen: State, own: State, base: Base) -> State:
    """Weights of the whole model in float32, under its own names: frozen ones, trained ones over
    them, and adapters added: W + alpha / rank B A, with DoRA scaled to its learned row lengths."""
    dtype = DTYPES[base.frozen_dtype]
    merged = {n: t.to(dtype).float() if _is_matrix(n, t) else t for n, t in frozen.items()}
    merged |= {name: tensor for name, tensor in own.items() if not is_adapter(name)}
    for name in own:
        if name.endswith(LORA_A):
            layer = name.removesuffix(LORA_A)
            merged[f"{layer}.weight"] = _merged_weight(merged[f"{layer}.weight"], own, layer, base)
    return merged


def _merged_weight(weight: Tensor, own: State, layer: str, base: Base) -> Tensor:
    down, up = own[layer + LORA_A], own[layer + LORA_B]  # (r, in), (out, r)
    assert base.alpha is not None
    merged = weight + base.alpha / len(down) * (up @ down)
    if (magnitude := own.get(layer + MAGNITUDE)) is None:
        return merged
    lengths: Tensor = merged.norm(dim=1, keepdim=True)
    return magnitude[:, None] * merged / lengths
