"""Teachers of stage 2: no dropout, and the EMA's weights in eval mode."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17
from pose.engine.ema import WeightEma
from pose.models.adapter import add_adapters_
from pose.models.pose_model import PoseModel, normalise
from pose.models.spec import ModelSpec
from pose.ssl.students import network_teacher
from sections import DEFAULT, changed

CPU = torch.device("cpu")
CODEC = UdpCodec("gaussian", (24, 32), (12, 16), 1.0, 0.0546875, COCO_17.flip_indices)
NO_TARGETS = torch.zeros(2, 17, 3)


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8)


@pytest.fixture
def model(tiny_model_spec: ModelSpec) -> PoseModel:
    torch.manual_seed(1)
    model = PoseModel(replace(tiny_model_spec, drop_path=0.9, depth=4))
    torch.nn.init.normal_(model.head.final_layer.weight)
    return model.train()


def test_a_teacher_uses_no_drop_path(model: PoseModel, images: torch.Tensor) -> None:
    """The student itself does so before and afterwards."""
    teacher = network_teacher(model, CODEC, CPU, "none")
    assert torch.equal(teacher(images, NO_TARGETS), teacher(images, NO_TARGETS))
    noisy = [model(normalise(images)) for _ in range(2)]
    assert not torch.equal(*noisy)


def test_a_teacher_with_adapters_uses_no_dropout(
    tiny_model_spec: ModelSpec, images: torch.Tensor
) -> None:
    torch.manual_seed(1)
    model = PoseModel(tiny_model_spec)
    add_adapters_(model, changed(DEFAULT.lora, dropout=0.5), "vit")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    teacher = network_teacher(model.train(), CODEC, CPU, "none")
    assert torch.equal(teacher(images, NO_TARGETS), teacher(images, NO_TARGETS))
    assert not torch.equal(*(model(normalise(images)) for _ in range(2)))


@pytest.mark.parametrize("head", ["sapiens", "classic"])
def test_an_ema_teacher_is_a_copy_with_the_averaged_weights(
    tiny_model_spec: ModelSpec, images: torch.Tensor, head: str
) -> None:
    """To the bit, also of torch's own AveragedModel; the student stays as it was."""
    torch.manual_seed(1)
    model = PoseModel(replace(tiny_model_spec, head=head))
    ema = WeightEma(model, 0.75)
    reference = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75), use_buffers=True
    )
    reference.update_parameters(model)  # the first time it copies
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        ema.update_()
        reference.update_parameters(model)
    before, modes = deepcopy(model.state_dict()), [part.training for part in model.modules()]
    found = network_teacher(model, CODEC, CPU, "none", ema=ema)(images, NO_TARGETS)
    expected = network_teacher(reference.module.eval(), CODEC, CPU, "none")(images, NO_TARGETS)
    assert torch.equal(found, expected)
    assert modes == [part.training for part in model.modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
