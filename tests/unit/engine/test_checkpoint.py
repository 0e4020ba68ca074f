"""Training states on disk: atomic, verified, and never unpickled."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malicious import traps
from pose.common.errors import PoseError
from pose.engine import checkpoint


def test_training_state_round_trip(tmp_path: Path) -> None:
    state = {"model": {"a": torch.randn(2)}, "step": 3, "history": [{"loss": 0.5}], "window": []}
    checkpoint.save_training_state(tmp_path / "1.pt", state)
    checkpoint.save_training_state(tmp_path / "other.pt", state)
    found = checkpoint.read_training_state(tmp_path / "1.pt")
    assert torch.equal(found.pop("model")["a"], state["model"]["a"])
    assert found == {k: v for k, v in state.items() if k != "model"}
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


def newest(path: Path) -> int | None:
    state = checkpoint.newest_training_state(path)
    return state and state["n"]


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(torch.full((64,), 7.0).numpy().tobytes())
    content[start + 9] ^= 1
    path.write_bytes(content)


def test_the_previous_state_replaces_a_damaged_one(tmp_path: Path, caplog) -> None:
    path = tmp_path / "state.pt"
    caplog.set_level("INFO", "pose")
    assert newest(path) is None
    for n in (1, 2, 3):
        checkpoint.save_training_state(path, {"n": n, "a": torch.full((64,), 7.0)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.previous.pt", "state.pt"]
    assert (newest(path), caplog.text) == (3, "")
    corrupt(path)
    assert newest(path) == 2
    assert f"{path}: damaged" in caplog.text
    assert "trying the previous checkpoint" in caplog.text
    path.unlink()  # a power loss between the two renames
    assert newest(path) == 2
    corrupt(checkpoint.previous(path))
    assert newest(path) is None


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_power_loss_at_any_call_leaves_a_state(
    tmp_path: Path, monkeypatch, call: str, at: int
) -> None:
    """After a failure of the n-th call there is a complete state, the old or the new one."""
    path, calls = tmp_path / "state.pt", []
    for n in (1, 2):
        checkpoint.save_training_state(path, {"n": n})
    real = getattr(os, call)

    def fail_at(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == at:
            raise OSError("power")
        real(*arguments)

    monkeypatch.setattr(os, call, fail_at)
    with contextlib.suppress(OSError):
        checkpoint.save_training_state(path, {"n": 3})
    monkeypatch.undo()
    assert newest(path) in (2, 3)


def test_a_state_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch) -> None:
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def replaced(source: Path, target: Path) -> None:
        order.append(f"{source.name} -> {target.name}")
        replace(source, target)

    path = tmp_path / "state.pt"
    checkpoint.save_training_state(path, {})
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    checkpoint.save_training_state(path, {})
    first = order.index("sync state.pt.tmp")
    assert order[first:].index("state.pt -> state.previous.pt") > 0
    assert order[-2:] == ["state.pt.tmp -> state.pt", f"sync {tmp_path.name}"]


@pytest.fixture(scope="module")
def content_of_a_state(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "x.pt"
    model = {"a": torch.randn(5, 5), "b": torch.ones(3)}
    checkpoint.save_training_state(path, {"model": model, "step": 3})
    return path.read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_state_truncated_at_any_byte_is_refused(
    tmp_path: Path, content_of_a_state: bytes, share: float
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content_of_a_state[: int(share * len(content_of_a_state))])
    with pytest.raises(PoseError, match=r"x\.pt"):
        checkpoint.read_training_state(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_state(
    tmp_path: Path, content_of_a_state: bytes, share: float, bit: int
) -> None:
    """The file is refused, or the bit is not read (padding, dates of the zip's entries)."""
    path, content = tmp_path / "y.pt", bytearray(content_of_a_state)
    path.write_bytes(content)
    expected = checkpoint.read_training_state(path)
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(PoseError):
        found = checkpoint.read_training_state(path)
        assert found["step"] == expected["step"]
        for name, tensor in expected["model"].items():
            assert torch.equal(found["model"][name], tensor), name


def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path, content_of_a_state: bytes) -> None:
    """One bit of the zip's directory; torch returns uninitialised memory for such a record."""
    content = bytearray(content_of_a_state)
    entry = content[: content.rindex(b"/data/1")].rindex(b"PK\x01\x02")
    content[entry + 38] |= 0x10  # external attributes, MS-DOS: a folder
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(PoseError, match="damaged"):
        checkpoint.read_training_state(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", traps(Path()))
def test_a_malicious_state_is_refused_and_not_run(tmp_path: Path, kind: str, zipped: bool) -> None:
    harm, path = tmp_path / "harm", tmp_path / "x.pth"
    content = {"a": torch.ones(2), "meta": argparse.Namespace(b=traps(harm)[kind])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PoseError, match=path.name) as caught:
        checkpoint.read_training_state(path)
    assert "\n" not in str(caught.value)
    assert not harm.exists()


def test_an_absent_state(tmp_path: Path) -> None:
    assert checkpoint.read_training_state(tmp_path / "x.pt") is None
