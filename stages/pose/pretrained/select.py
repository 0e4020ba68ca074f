"""Find the backbone among the tensors of a checkpoint: behind which dictionary and prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pose.common.errors import PoseError, printable
from pose.models.checkpoint import State, shorten
from pose.pretrained.read import Dictionaries, read_checkpoint

# Parts of names that torch's wrappers add, anywhere: DDP and AveragedModel, compile, FSDP,
# activation checkpointing.
WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
}
# If several dictionaries hold a backbone: the first of these keys at each level, without asking.
PREFERRED = ("state_dict", "state_dict_ema", "model", "module")
# Names of a ViT in the formats that convert.py knows. A file without a tensor of the first kind is
# searched for the next.
MARKS = tuple(
    re.compile(rf"(?:(?P<prefix>.*)\.)?(?:{pattern})")
    for pattern in (
        r"patch_embed\.(?:proj|projection)\.weight"
        r"|embeddings\.patch_embeddings\.(?:projection\.)?weight",
        r"pos_embed|embeddings\.position_embeddings",
        r"(?:blocks|layers|encoder\.layer)\.\d{1,4}\.(?:norm1|ln1|layernorm_before)\.weight",
    )
)


@dataclass(frozen=True)
class Backbone:
    """A backbone in a file: the keys of its dictionary, its prefix there, and the mark found."""

    keys: str
    prefix: str
    mark: int

    @property
    def name(self) -> str:
        """As weights.key names it; "." if it is at the top."""
        return ".".join(part for part in (self.keys, self.prefix) if part) or "."

    def fits(self, key: str) -> int:
        """How well a weights.key names it: 3 exactly, 2 its beginning, 1 a part, 0 not at all."""
        ours, wanted = f".{self.name.strip('.')}.", f".{key.strip('.')}."
        return (wanted in ours) + ours.startswith(wanted) + (wanted == ours)


def read_model(path: Path, key: str | None = None) -> tuple[State, str]:
    """select of a checkpoint. Raises PoseError that names the file."""
    dictionaries = read_checkpoint(path)
    try:
        return select(dictionaries, key)
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None


def select(dictionaries: Dictionaries, key: str | None = None) -> tuple[State, str]:
    """The tensors of one model with a backbone, and a line that says where in the file they were.

    Names are without wrappers and prefix: they begin with `backbone.`, `head.` or `keypoint_head.`,
    or as a backbone's own names do. Raises PoseError unless there is one backbone, or one is
    preferred (PREFERRED) or named by `key`: keys of dictionaries and prefixes, joined by dots.
    """
    plain = {keys: without_wrappers(state) for keys, state in dictionaries.items()}
    found = [backbone for keys, state in plain.items() for backbone in _backbones(keys, state)]
    if not found:
        raise no_backbone(max(plain.values(), key=len))
    found = [backbone for backbone in found if backbone.mark == min(b.mark for b in found)]
    chosen = _choose(found, key, _preferred(list(plain)))
    sizes = {backbone: len(_below(backbone, plain)) for backbone in found}
    if len(chosen) != 1:
        listed = ", ".join(f"{printable(b.name[:100])} ({sizes[b]} tensors)" for b in found[:9])
        raise PoseError(
            f"holds {len(found)} backbones: {listed}; set weights.key to the name of one"
            if key is None
            else f"weights.key = {key!r} names {len(chosen)} of its backbones: {listed}"
        )
    return _below(chosen[0], plain), _describe(chosen[0], sizes, plain)


def no_backbone(state: State) -> PoseError:
    """The error for tensors without the names of a ViT."""
    return PoseError(
        f"none of its {len(state)} tensors has a name of a known ViT (first: "
        f"{shorten(list(state))}); expected patch_embed, pos_embed and blocks or layers, as "
        "Sapiens, mmpose, timm, MAE and Hugging Face's ViTPose name them, behind any prefix"
    )


def without_wrappers(state: State) -> State:
    """The same tensors under names without WRAPPERS; as they are if two would have one name."""
    plain = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in state.items()
    }
    return plain if len(plain) == len(state) else state


def _backbones(keys: str, state: State) -> list[Backbone]:
    """All in one dictionary, by the first of MARKS that any name has."""
    for mark, pattern in enumerate(MARKS):
        matches = [match for name in state if (match := pattern.fullmatch(name))]
        prefixes = [_parent(match["prefix"] or "", state) for match in matches]
        if prefixes:
            return [Backbone(keys, prefix, mark) for prefix in dict.fromkeys(prefixes)]
    return []


def _parent(prefix: str, state: State) -> str:
    """A backbone's prefix without its own name, which is `backbone`, or `model` beside a head."""
    if (parent := re.sub(r"(^|\.)model$", "", prefix)) != prefix:
        head = f"{parent}.decode_head.".lstrip(".")
        return parent if any(name.startswith(head) for name in state) else prefix
    return re.sub(r"(^|\.)backbone$", "", prefix)


def _preferred(keys: list[str]) -> str:
    """The dictionary to which PREFERRED leads."""
    path: list[str] = []
    while step := [k for k in PREFERRED if _starts(".".join([*path, k]), keys)]:
        path.append(step[0])
    return ".".join(path)


def _starts(start: str, keys: list[str]) -> bool:
    return any(f"{key}.".startswith(f"{start}.") for key in keys)


def _choose(found: list[Backbone], key: str | None, preferred: str) -> list[Backbone]:
    """Those that `key` names exactly, else at their beginning, else anywhere; without one all."""
    if key is None:
        return [backbone for backbone in found if backbone.keys == preferred] or found
    for wanted in (key, ".".join(part for part in key.split(".") if part not in WRAPPERS)):
        best = max(backbone.fits(wanted) for backbone in found)
        if wanted and best:
            return [backbone for backbone in found if backbone.fits(wanted) == best]
    return []


def _below(backbone: Backbone, dictionaries: Dictionaries) -> State:
    """The tensors of a backbone's dictionary below its prefix."""
    prefix = f"{backbone.prefix}." if backbone.prefix else ""
    state = dictionaries[backbone.keys]
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _describe(chosen: Backbone, sizes: dict[Backbone, int], dictionaries: Dictionaries) -> str:
    line = f"read {sizes[chosen]} tensors"
    if chosen.name != ".":
        line += f" of {printable(chosen.name)}"
    if others := [f"{b.name} ({sizes[b]})" for b in sizes if b != chosen]:
        line += f"; not read: {shorten(others)}, see weights.key"
    if beside := len(dictionaries[chosen.keys]) - sizes[chosen]:
        line += f"; {beside} beside the prefix are left out"
    return line
