"""ViTPose+ and ViTPose++: one expert of a file becomes a plain ViTPose.

Each MLP of such a file ends in a shared part and one of six experts. Stacked along the output axis,
they are the fc2 of a plain ViT: fc2 = [mlp.fc2; mlp.experts.k], weight and bias. The head of expert
0 is `keypoint_head`, that of expert k is `associate_keypoint_heads.{k - 1}`. Source: ViTPose++
(arXiv 2212.04246) and the names in its files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17
from pose.models.checkpoint import State

# name and number of keypoints of experts 0 to 5, and the files of recipes/keypoints for them
EXPERTS = (
    ("COCO", 17),
    ("AIC", 14),
    ("MPII", 16),
    ("AP-10K", 17),
    ("APT-36K", 17),
    ("COCO-WholeBody", 133),
)
KEYPOINT_SETS = (None, "aic", "mpii", "ap10k", "apt36k", "coco_wholebody")
EXPERT = re.compile(r"^(.*\.mlp)\.experts\.(\d{1,3})\.(weight|bias)$")


def take_expert(
    state: State, expert: int | None, keep_head: bool, names: Sequence[str]
) -> tuple[State, list[str]]:
    """A file's tensors with those of one expert in place, and notes on what was done.

    Names of tensors are those of the file, without prefixes. A file without experts is returned as
    it is. expert: weights.expert of params.yaml. names: of the model's keypoints. Raises PoseError
    if the expert does not fit the file, or its head not the keypoints.
    """
    numbers = sorted({int(match[2]) for name in state if (match := EXPERT.match(name))})
    if not numbers:
        if expert is None:
            return state, []
        raise PoseError(
            f"weights.expert = {expert}, but the file has no experts (mlp.experts); set it to null"
        )
    if expert not in numbers:
        listed = ", ".join(f"{k} {_describe(k)}" for k in numbers)
        given = "is null" if expert is None else f"= {expert}"
        raise PoseError(
            f"weights.expert {given}, but the file has {len(numbers)} experts: {listed}; set it "
            "to the number of one"
        )
    taken = _join(state, expert)
    notes = [f"expert {expert} of {len(numbers)}: {_describe(expert)}"]
    if expert:
        if keep_head:
            _require_keypoints(expert, names)
        taken, head_notes = _take_head(taken, expert, keep_head)
        notes += head_notes
    return taken, notes


def _describe(expert: int) -> str:
    if expert >= len(EXPERTS):
        return "(unknown)"
    name, count = EXPERTS[expert]
    return f"({name}, {count} keypoints)"


def _require_keypoints(expert: int, names: Sequence[str]) -> None:
    """Raise PoseError if the head of an expert other than COCO's is not for these keypoints."""
    count, given = EXPERTS[expert][1], f"has {len(names)} names"
    if tuple(names) == COCO_17.names:
        given = "has COCO's 17"
    elif len(names) == count:
        return
    raise PoseError(
        f"weights.expert = {expert} {_describe(expert)}, weights.head = keep, but keypoints.names "
        f"{given}; run `python recipes/apply.py keypoints/{KEYPOINT_SETS[expert]}`, or set "
        "weights.head: fresh"
    )


def _join(state: State, expert: int) -> State:
    """Every shared fc2 with the expert's rows below; the experts themselves are left out."""
    joined = {name: tensor for name, tensor in state.items() if not EXPERT.match(name)}
    places = sorted({(m[1], m[3]) for name in state if (m := EXPERT.match(name))})
    for mlp, kind in places:
        shared, part = f"{mlp}.fc2.{kind}", f"{mlp}.experts.{expert}.{kind}"
        if shared not in state or part not in state:
            raise PoseError(
                f"has experts in {mlp}, but not both {shared} and {part}; download it again"
            )
        rows = state[shared], state[part]
        if len({(t.shape[1:], t.dtype) for t in rows}) > 1:
            raise PoseError(f"{shared} and {part} differ in shape or type; download it again")
        joined[shared] = torch.cat(rows)
    return joined


def _take_head(state: State, expert: int, keep_head: bool) -> tuple[State, list[str]]:
    """associate_keypoint_heads.{expert - 1} as keypoint_head, its final layer cut to K maps.

    Whole files may have more maps there than keypoints.
    """
    others = {name: t for name, t in state.items() if not name.startswith(("head.", "keypoint_"))}
    start = f"associate_keypoint_heads.{expert - 1}."
    head = {name: t for name, t in others.items() if start in f".{name}"}
    if not head and keep_head:
        raise PoseError(
            f"weights.expert = {expert}, weights.head = keep: the file has no {start[:-1]}; set "
            "weights.head: fresh, or take the authors' own file, which has all heads"
        )
    count, notes = EXPERTS[expert][1], []
    for name, tensor in head.items():
        del others[name]
        if ".final_layer." in name and len(tensor) > count:
            notes = [f"the head's final layer has {len(tensor)} maps; the first {count} are read"]
            tensor = tensor[:count]
        others[f"keypoint_head.{name.partition(start)[2]}"] = tensor
    return others, notes if keep_head else []
