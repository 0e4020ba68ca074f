"""Ways to spoil good files, and what may come of it: a result or one line, nothing else.

No test itself. A test of this folder runs twice: a few inputs in `make test`, thousands under the
marker `long` (`make test-long`).
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.parsed_yaml import LOAD
from pose.common.errors import PoseError

MEMORY_BOUND = 768 << 20  # bytes of growth of this process that a hostile file may cause
MAX_LINE = 4000  # characters of a message; one line a mistake


def inputs(short: int, long: int) -> Any:
    """Parametrizes `examples`: few in every run, many in the long one."""
    marks = [pytest.mark.long, pytest.mark.timeout(7200)]
    return pytest.mark.parametrize(
        "examples",
        [pytest.param(short, id="short"), pytest.param(long, id="long", marks=marks)],
    )


def fuzz(examples: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Call check with so many values; the first that fails is made small and shown."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    law = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)
    law(given(strategy)(check))()


@contextmanager
def refused_or_fine() -> Iterator[None]:
    """Lets a PoseError of short lines pass; any other exception is a finding."""
    try:
        yield
    except PoseError as error:
        _require_short(str(error))


def refused(call: Callable[..., object], *arguments: object) -> str:
    """The lines of the PoseError that the call has to raise."""
    with pytest.raises(PoseError) as caught:
        call(*arguments)
    _require_short(str(caught.value))
    return str(caught.value)


def _require_short(message: str) -> None:
    for line in message.split("\n"):
        assert line.isprintable(), repr(line)
        assert len(line) < MAX_LINE, f"{len(line)} characters: {line[:200]}"


# ---------------------------------------------------------------------------------- bounds

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALARMS = ("os.system", "subprocess.Popen", "os.exec", "os.fork", "socket.connect", "os.posix_spawn")
CHANGES = {"os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.mkdir": 1}  # paths
_watch: list[tuple[Path, list[str]]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: every process started and every place touched outside the folder."""
    if not _watch:
        return
    folder, seen = _watch[-1]
    writes = event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITES)
    named = arguments[: CHANGES.get(event, 1)] if writes else ()  # open numbers are inside
    outside = [a for a in named if not isinstance(a, int) and not _is_inside(a, folder)]
    if event in ALARMS or outside:
        seen.append(f"{event} {arguments}")


def _is_inside(name: Any, folder: Path) -> bool:
    path = Path(os.fsdecode(name)).absolute()
    return path.is_relative_to(folder) or ".hypothesis" in path.parts


@pytest.fixture
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder: nothing may be written outside of it, no process started, memory stays bounded."""
    monkeypatch.setattr(YAML, "load", LOAD)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of what is imported meanwhile
    if not getattr(sys, "_pose_watch", False):
        sys.addaudithook(_note)
        sys._pose_watch = True  # type: ignore[attr-defined]  # a hook cannot be taken off
    seen: list[str] = []
    before = _memory()
    _forget_peak()
    _watch.append((tmp_path, seen))
    try:
        yield tmp_path
    finally:
        _watch.pop()
    assert not seen, seen[:3]
    assert _peak() - before < MEMORY_BOUND


def _memory() -> int:
    return psutil.Process().memory_info().rss


def _forget_peak() -> None:
    with Path("/proc/self/clear_refs").open("w") as stream:
        stream.write("5")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


# ---------------------------------------------------------------------------------- bytes


@st.composite
def corrupted_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut, with bits flipped, with pieces lost, doubled or overwritten."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(out) - 1, 0)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 16, 64]))
        kind = draw(st.sampled_from(["flip", "flip", "set", "set", "cut", "lose", "double", "put"]))
        if kind == "cut":
            del out[place:]
        elif kind == "lose":
            del out[place : place + length]
        elif kind == "double":
            out[place:place] = out[place : place + length]
        elif kind == "put":
            out[place:place] = draw(st.binary(max_size=16))
        elif kind == "set":
            out[place : place + length] = bytes([draw(st.sampled_from([0, 1, 127, 128, 255]))]) * (
                length
            )
        elif out:
            out[place % len(out)] ^= 1 << draw(st.integers(0, 7))
    return bytes(out)


# ---------------------------------------------------------------------------------- JSON

FLOATS = [0.5, 1e-300, 5e-324, 1e38, -1e38, 3.5e38, 1e308, float("inf"), float("nan")]
INTEGERS = [0, -1, 1, 2, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400]
ODD_NUMBERS = st.sampled_from([*FLOATS, *INTEGERS, True, False])
ODD_TEXTS = st.one_of(
    st.sampled_from(["", ".", "..", "/", "../x", "a/b", "a\\b", "\0", "a\0b", "\ud800.jpg", "~"]),
    st.sampled_from(["x" * 300, "a\nb", "<script>alert(1)</script>", "__class__", "{0.x}", "%s"]),
    st.text("ab<é \n\0\ud800", max_size=8),
)
JUNK = st.recursive(
    st.none() | ODD_NUMBERS | ODD_TEXTS | st.integers(-3, 300) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "image_id", "bbox", "name", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def corrupted_json(draw: st.DrawFn, value: Any) -> Any:
    """A copy with a few nodes replaced by junk, removed, or doubled."""
    holder = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        container, key = _place(draw, holder[0])
        if container is None:
            holder[0] = draw(JUNK)
        else:
            _corrupt_node(draw, container, key)
    return holder[0]


def _place(draw: st.DrawFn, value: Any) -> tuple[Any, Any]:
    """A container inside value and a key of it; any depth alike, (None, None): value itself."""
    container, key = None, None
    for _ in range(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, 5))):
        if not isinstance(value, dict | list) or not value:
            break
        keys = list(value) if isinstance(value, dict) else range(len(value))
        container, key = value, keys[draw(st.integers(0, len(keys) - 1))]
        value = container[key]
    return container, key


def _corrupt_node(draw: st.DrawFn, container: Any, key: Any) -> None:
    kind = draw(st.sampled_from(["junk", "junk", "junk", "lose", "double"]))
    if kind == "junk":
        container[key] = draw(JUNK)
    elif kind == "lose":
        del container[key]
    elif isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    else:
        container[f"{key}2"] = container[key]
