"""Processes of one run: how many there are, how they start, and which failure is named.

How real ones end: tests/pipeline/test_torchrun.py.
"""

from __future__ import annotations

import os
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pose import distributed
from pose.common.errors import PoseError
from pose.common.script import ERROR_FILE


def test_a_batch_must_come_out_even(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.batch_per_process(12, "train.batch_size", 3) == 12
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    assert distributed.batch_per_process(12, "train.batch_size", 3) == 3
    with pytest.raises(PoseError) as caught:
        distributed.batch_per_process(12, "ssl.batch_size", 2)
    said = "params.yaml: ssl.batch_size = 12, expected a multiple of 4 processes x "
    assert str(caught.value).startswith(said + "train.accumulate 2")


@pytest.mark.parametrize(
    ("exit_codes", "said"),
    [
        ([1, -9], "the process of rank 1 was killed by SIGKILL; rerun to continue"),
        ([-15, -9], "the process of rank 1 was killed by SIGKILL; rerun to continue"),
        ([-15, 2], "the process of rank 1 ended with exit code 2 without a message"),
        ([2, -15], "the process of rank 0 ended with exit code 2 without a message"),
    ],
)
def test_the_process_that_failed_by_itself_is_named(exit_codes: list[int], said: str) -> None:
    """torchrun ends the others with SIGTERM; those may fail because one was killed."""
    failures = {
        rank: ProcessFailure(rank, 1000 + rank, code, "") for rank, code in enumerate(exit_codes)
    }
    assert distributed._ended(ChildFailedError("x.py", failures), "").args == (said,)


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_bad_number_of_processes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NPROC", text)
    with pytest.raises(PoseError, match=f"environment: NPROC = '{text}', expected a positive"):
        distributed.init(1)


class Started(Exception):  # noqa: N818
    """In place of a start, with the command."""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No setting in the environment, and commands raise Started."""

    def run(arguments: object) -> None:
        raise Started(" ".join(str(vars(arguments)[name]) for name in ARGUMENTS))

    def execvp(file: str, command: list[str]) -> None:
        assert file == command[0]
        raise Started(" ".join(command))

    for name in ("NPROC", "PET_NNODES", "POSE_LAUNCHER", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed.torchrun, "run", run)
    monkeypatch.setattr(distributed.os, "execvp", execvp)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    return monkeypatch


ARGUMENTS = ("standalone", "nnodes", "nproc_per_node", "training_script")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NPROC": "2"}, "True 1:1 2 x.py"),
        ({"PET_NNODES": "2"}, "False 2 1 x.py"),
        ({"PET_NNODES": "2", "NPROC": "8", "POSE_LAUNCHER": ""}, "False 2 8 x.py"),
        (
            {"NPROC": "8", "PET_NNODES": "2", "POSE_LAUNCHER": "srun --ntasks-per-node=1"},
            "srun --ntasks-per-node=1 env NPROC=8 POSE_LAUNCHER= {python} x.py",
        ),
    ],
)
def test_the_script_is_started_in_each_process(
    bare: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    with pytest.raises(Started) as caught:
        distributed.init(3)
    assert str(caught.value) == expected.format(python=sys.executable)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert ERROR_FILE not in os.environ


def test_a_launcher_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    monkeypatch.setenv("POSE_LAUNCHER", "no-such-launcher")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(PoseError, match="POSE_LAUNCHER = 'no-such-launcher' cannot be run"):
        distributed.init(1)
