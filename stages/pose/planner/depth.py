"""What a deep model costs, from shallow ones: equal blocks in a row cost equally much each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import groupby

import numpy as np
from torch import nn

from pose.models.pose_model import PoseModel

# Of a model: values (n, m), and for each of the n rows the index of the block that it belongs to
Count = Callable[[PoseModel], tuple[np.ndarray, np.ndarray]]


def count_by_depth(model: PoseModel, count: Count, additive: bool = False) -> np.ndarray:
    """`count` of a deep model from models that keep two or three of equal blocks in a row.

    Example: of 48 equal blocks the first and the last are kept, then also one between them. What
    that one adds to each value is added 46 times; its own values are left out, since they lie
    between those of the first and the last block. additive: a block adds equally much wherever it
    stands, as with FLOPs, so that the first alone is kept, then also the second.
    """
    rows = equal_blocks(model.backbone.blocks)
    ends = 1 if additive else 2
    always = {index for row in rows for index in (row[0], row[-1])[:ends]}
    short, _ = count(with_blocks(model, sorted(always)))
    total = short
    for length in {len(row) for row in rows if len(row) > ends}:
        between = {row[1] for row in rows if len(row) == length}
        kept = sorted(always | between)
        longer, block = count(with_blocks(model, kept))
        others = np.isin(block, [kept.index(index) for index in between], invert=True)
        total = total + (length - ends) * (longer[others] - short)
    return total


def equal_blocks(blocks: nn.Sequential) -> list[list[int]]:
    """Indices of blocks, those together that follow each other with equal modules and shapes."""

    def kind(index: int) -> tuple[object, ...]:
        modules = tuple((name, type(module)) for name, module in blocks[index].named_modules())
        shapes = tuple((name, p.shape) for name, p in blocks[index].named_parameters())
        return modules, shapes

    return [list(row) for _, row in groupby(range(len(blocks)), key=kind)]


def with_blocks(model: PoseModel, kept: list[int]) -> PoseModel:
    """A copy of the model that has these blocks alone."""
    blocks = model.backbone.blocks
    model.backbone.blocks = nn.Sequential(*(blocks[index] for index in kept))
    shallow = deepcopy(model)
    model.backbone.blocks = blocks
    return shallow
