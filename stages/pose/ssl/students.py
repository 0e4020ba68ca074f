"""Several networks as one module, for stage 2."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pose.models.vit import PoseModel


class Learners(nn.Module):
    """Stage 2's networks under one state_dict, so that a resumed run has them all.

    averages[i] follows students[i] by ema_decay; without (0) there are none.
    """

    def __init__(self, students: list[PoseModel], ema_decay: float) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)
        average = get_ema_multi_avg_fn(ema_decay)
        copies = [AveragedModel(one, multi_avg_fn=average) for one in students if ema_decay]
        self.averages = nn.ModuleList(copies).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Learners:
        """The students' mode; averages answer as in evaluation, always."""
        self.students.train(mode)
        return self

    def average_(self) -> None:
        """Take the students' present weights into the averages; the first time, as they are."""
        for average, student in zip(self.averages, self.students, strict=False):
            assert isinstance(average, AveragedModel)
            average.update_parameters(student)
