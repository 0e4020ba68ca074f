"""tools/setup_environment.py with real environments, a real pip and hollow packages; no network."""

from __future__ import annotations

import ast
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hollow import Release, write_wheel
from mounts import mounted

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "setup_environment.py"
AGAIN = "then run the same command again"
HALF_INSTALLED = ("no_record", "no_installer", "no_module", "cut", "record_cut")
PINNED = dict.fromkeys(("one", "two", *HALF_INSTALLED), "1.0")
BULK = ("pip", "setuptools", "pkg_resources")  # what no test writes to
MADE_AGAIN = ".venv has no working Python 3.10 to 3.13 with pip; it is made again"
DONE = subprocess.CompletedProcess[str]


class Place:
    """A folder with a lock of hollow packages, and the index that serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder / "a project", folder / "index"
        self.folder.mkdir()
        self.index.mkdir()
        self.lock = self.folder / "requirements.txt"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "1"}
        self.variables = kept | own | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}
        self.pin(**PINNED)

    def pin(self, size: int = 1, **versions: str) -> None:
        """A lock of these releases; each holds one module of that size in bytes."""
        lines = []
        for name, version in versions.items():
            release = Release(name, version, requires=("not-pinned",))  # --no-deps: not looked for
            module = (f"{name}.py", f"# {version}".ljust(size).encode())
            digest = write_wheel(self.index, release, [module])
            lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
        self.lock.write_text("".join(lines))

    def command(self, python: str | None = None) -> list[str]:
        return [python or sys.executable, str(SCRIPT), ".venv", "requirements.txt"]

    def setup(self, *command: str, **variables: str) -> DONE:
        environment = self.variables | variables
        return subprocess.run(
            command or self.command(),
            cwd=self.folder,
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
        )

    def setup_without_ensurepip(self) -> DONE:
        """As with Debian's Python without python3-venv."""
        code = "import sys, runpy; sys.modules['ensurepip'] = None; del sys.argv[0]"
        code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
        python, *command = self.command()
        return self.setup(python, "-c", code, *command)

    def start(self, **variables: str) -> subprocess.Popen[str]:
        """The command in a process group of its own, as a terminal starts it."""
        return subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env={n: v for n, v in (self.variables | variables).items() if v},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def must(self) -> str:
        done = self.setup()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def packages(self) -> Path:
        (folder,) = self.folder.glob(".venv/lib/python3.*/site-packages")
        return folder

    def module(self, name: str) -> str:
        return (self.packages / f"{name}.py").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished environment; tests take copies of it."""
    place = Place(tmp_path_factory.mktemp("made"))
    place.must()
    return place


@pytest.fixture
def ready(made: Place, place: Place) -> Place:
    source, target = made.folder / ".venv", place.folder / ".venv"
    shutil.copytree(source, target, symlinks=True, copy_function=link_or_copy)
    return place


def link_or_copy(source: str, target: str) -> None:
    """pip's own 1,400 files are linked, which takes a tenth of the time."""
    link = any(part in BULK for part in Path(source).parts)
    (os.link if link else shutil.copy2)(source, target)


def last_line(done: DONE, status: int = 1) -> str:
    """The one line of the script's own on stderr; pip's lines stand above it."""
    assert done.returncode == status, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("setup:")] == lines[-1:], done.stderr
    return lines[-1]


@pytest.fixture
def silent_index() -> Iterator[tuple[str, threading.Event]]:
    """Address of an index that takes requests and never answers; the event: one has come."""
    asked, over = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            over.wait()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", asked
        over.set()
        server.shutdown()
        thread.join()


def test_it_reads_as_python_3_6() -> None:
    """So that an old Python prints which one is needed, not a syntax error."""
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("version", ["(3, 6, 9)", "(3, 9, 18)", "(3, 14, 0)"])
def test_another_python_is_refused(place: Place, version: str) -> None:
    code = f"import sys, runpy; sys.version_info = {version}; del sys.argv[0]"
    code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = place.command()
    done = place.setup(command[0], "-c", code, *command[1:])
    assert last_line(done).startswith("setup: Python 3.10 to 3.13 is needed, ")
    assert last_line(done).endswith("; try make PYTHON=python3.11")
    assert not (place.folder / ".venv").exists()


def test_a_python_without_ensurepip_is_named(place: Place) -> None:
    line = last_line(place.setup_without_ensurepip())
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    assert "has no ensurepip" in line
    assert f"apt install {package}), {AGAIN}" in line
    assert not (place.folder / ".venv").exists()


def test_what_is_pinned_is_installed_and_no_more(ready: Place) -> None:
    assert ready.module("one") == "# 1.0"
    names = {path.name.split("-")[0] for path in ready.packages.glob("*.dist-info")}
    assert names - {"setuptools"} == {*PINNED, "pip"}


def test_a_changed_lock_updates_and_a_newer_release_is_left_alone(ready: Place) -> None:
    ready.pin(one="1.1", two="1.0")
    for name in ("one", "two"):
        write_wheel(ready.index, Release(name, "2.0"))
    output = ready.must()
    assert output.split("Successfully installed ")[1].split() == ["one-1.1"]
    assert ready.module("one") == "# 1.1"
    assert ready.module("two") == "# 1.0"


def damage_python(ready: Place) -> None:
    """The system's Python is gone."""
    link = ready.folder / ".venv/bin/python"
    link.unlink()
    link.symlink_to("nowhere")


def damage_pip(ready: Place) -> None:
    shutil.rmtree(ready.packages / "pip/_internal/commands")


def damage_all(ready: Place) -> None:
    shutil.rmtree(ready.folder / ".venv/lib")


@pytest.mark.parametrize("damage", [damage_python, damage_pip, damage_all])
def test_a_broken_environment_is_found(ready: Place, damage: Callable[[Place], None]) -> None:
    """Without ensurepip, so that it ends before it takes seconds to make another one."""
    damage(ready)
    done = ready.setup_without_ensurepip()
    assert MADE_AGAIN in done.stdout
    assert "has no ensurepip" in last_line(done)


def test_a_broken_environment_is_made_again_also_after_a_kill(ready: Place) -> None:
    """Killed while pip is not there yet, which is a half made environment."""
    damage_pip(ready)
    damage_python(ready)
    child = ready.start()
    python = ready.folder / ".venv/bin/python"
    while not python.exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    assert MADE_AGAIN in child.communicate()[0]
    assert MADE_AGAIN in ready.must()
    assert ready.module("one") == "# 1.0"
    assert ready.module("two") == "# 1.0"


def test_what_a_killed_pip_leaves_is_mended(ready: Place) -> None:
    """pip itself would take each package for installed: its METADATA is there."""
    info = {name: ready.packages / f"{name}-1.0.dist-info" for name in HALF_INSTALLED}
    (info["no_record"] / "RECORD").unlink()
    (info["no_installer"] / "INSTALLER").unlink()
    (ready.packages / "no_module.py").unlink()
    (ready.packages / "cut.py").write_text("")
    record = info["record_cut"] / "RECORD"
    record.write_text(record.read_text()[: record.stat().st_size // 2])
    (ready.packages / "~ne").mkdir()
    (ready.packages / "~wo.py").touch()
    output = ready.must()
    for name in HALF_INSTALLED:
        assert f"setup: {name}-1.0 is incomplete; it is installed again" in output
        assert ready.module(name) == "# 1.0"
    installed = output.split("Successfully installed ")[1].split()
    assert {name.replace("-1.0", "") for name in installed} == set(HALF_INSTALLED)
    assert not list(ready.packages.glob("~*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_goes_on_next_time(
    ready: Place, silent_index: tuple[str, threading.Event], number: signal.Signals
) -> None:
    """Ctrl-C reaches the whole group, kill the script alone; SIGKILL can say nothing."""
    address, asked = silent_index
    ready.pin(one="1.1", two="1.0")
    away = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": address}
    child = ready.start(**away, PIP_DEFAULT_TIMEOUT="1000")
    assert asked.wait(120), "pip never asked"
    os.killpg(child.pid, number) if number != signal.SIGTERM else child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    if number != signal.SIGKILL:
        done = DONE(child.args, child.returncode, output, errors)
        assert last_line(done, 130) == f"setup: stopped; what was downloaded is kept, {AGAIN}"
    ready.must()
    assert ready.module("one") == "# 1.1"


def test_no_network_is_said(ready: Place) -> None:
    ready.pin(one="1.1")
    nowhere = {
        "PIP_NO_INDEX": "",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    }
    line = last_line(ready.setup(**nowhere))
    assert line.startswith("setup: no answer from the package index (")
    assert "refused" in line
    assert line.endswith(f"); check the network, {AGAIN}")
    assert "Successfully installed one-1.1" in ready.must()


def test_a_silent_network_is_said(ready: Place, silent_index: tuple[str, threading.Event]) -> None:
    ready.pin(one="1.1")
    away = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": silent_index[0]}
    line = last_line(ready.setup(**away, PIP_DEFAULT_TIMEOUT="0.2"))
    assert line.startswith("setup: no answer from the package index (")
    assert "timeout" in line or "timed out" in line  # by version of pip


def test_a_release_that_is_gone_is_said(ready: Place) -> None:
    ready.pin(three="1.0")
    shutil.rmtree(ready.index)
    ready.index.mkdir()
    line = last_line(ready.setup())
    assert "pip failed (ERROR: No matching distribution found for three==1.0" in line


def test_another_file_than_the_pinned_one_is_refused(ready: Place) -> None:
    ready.pin(one="1.1")
    lock = ready.lock.read_text()
    ready.pin(size=9, one="1.1")
    ready.lock.write_text(lock)
    assert "a file is not the one that the lock names" in last_line(ready.setup())
    assert ready.module("one") == "# 1.0"


def test_a_full_disk_is_said_and_room_helps(ready: Place, tmp_path: Path) -> None:
    ready.pin(size=20 << 20, one="1.1")
    with mounted(tmp_path / "disk", "64m") as disk:
        ready.folder = Path(shutil.copytree(ready.folder, disk / "project", symlinks=True))
        filler = disk / "filler"
        filler.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - (8 << 20)))
        line = last_line(ready.setup())
        assert line.startswith("setup: No space left on device: ")
        assert f"MB in {disk}/project/.venv" in line
        assert line.endswith(f"; make room, {AGAIN}")
        filler.unlink()
        ready.must()
        assert ready.module("one").rstrip() == "# 1.1"


def test_no_room_for_an_environment_is_said(place: Place, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        place.folder = Path(shutil.copytree(place.folder, disk / "project"))
        line = last_line(place.setup())
    assert f"0 MB in {disk}/project" in line
    assert line.endswith(AGAIN)
