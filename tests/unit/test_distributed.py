"""Processes of one run: how many there are, and how the script becomes torchrun's."""

from __future__ import annotations

import os
import sys

import pytest

from pose import distributed
from pose.common.errors import PoseError


def test_a_batch_must_come_out_even(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.batch_per_process(12, "train.batch_size", 3) == 12
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    assert distributed.batch_per_process(12, "train.batch_size", 3) == 3
    with pytest.raises(PoseError) as caught:
        distributed.batch_per_process(12, "ssl.batch_size", 2)
    said = "params.yaml: ssl.batch_size = 12, expected a multiple of 4 processes x "
    assert str(caught.value).startswith(said + "train.accumulate 2")


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_bad_number_of_processes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NPROC", text)
    with pytest.raises(PoseError, match=f"environment: NPROC = '{text}', expected a positive"):
        distributed.init(1)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NPROC": "2"}, "{python} -m torch.distributed.run --standalone --nproc-per-node 2 x.py"),
        (
            {"NPROC": "8", "PET_NNODES": "2", "POSE_LAUNCHER": "srun --ntasks-per-node=1"},
            "srun --ntasks-per-node=1 {python} -m torch.distributed.run --nproc-per-node 8 x.py",
        ),
        ({"PET_NNODES": "2"}, "{python} -m torch.distributed.run --nproc-per-node 1 x.py"),
    ],
)
def test_the_script_becomes_torchrun(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    class Replaced(Exception):  # noqa: N818
        pass

    def execvp(file: str, arguments: list[str]) -> None:
        assert file == arguments[0]
        raise Replaced(" ".join(arguments))

    for name in ("NPROC", "PET_NNODES", "POSE_LAUNCHER", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed.os, "execvp", execvp)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Replaced) as caught:
        distributed.init(3)
    assert str(caught.value) == expected.format(python=sys.executable)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_launcher_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    monkeypatch.setenv("POSE_LAUNCHER", "no-such-launcher")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(PoseError, match="POSE_LAUNCHER = 'no-such-launcher' cannot be run"):
        distributed.init(1)
