"""Make or update a virtual environment that holds what locks pin; `make setup` runs this.

    python3 tools/setup_environment.py .venv requirements.txt [LOCK ...]

Runs on the system's Python, with nothing but the standard library. Packages come through the
environment's own pip (21.2 or newer) with --require-hashes. Each line of a lock is installed as it
stands (--no-deps): nothing is left to resolve against what is published today. Ends with one line
on stderr and status 1 if something is missing, 130 after Ctrl-C; run it again to continue.
"""

import argparse
import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 13)
AGAIN = "then run the same command again"
PIP = ["-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
# For releases without a wheel: built with the pinned setuptools, not with the newest one.
BUILD = ["--no-build-isolation", "--use-pep517"]
BUILD_TOOLS = re.compile(r"^(?:setuptools|wheel)==.*\n(?:[ \t]+--hash=.*\n)*", re.M)
FULL = re.compile(r"No space left on device|Disk quota exceeded")
NO_ANSWER = re.compile(
    r"Failed to establish a new connection: (?:\[Errno -?\d+\] )?[^'\")]*|Cannot connect to proxy"
    r"|(?:connect|read|Read) timed? ?out|Name or service not known|Connection refused"
    r"|Temporary failure in name resolution|CERTIFICATE_VERIFY_FAILED|RemoteDisconnected"
)


class SetupError(Exception):
    """One line: what was seen, and what to do."""


def main(arguments: "list[str]") -> None:
    folder, locks = Path(arguments[0]), [Path(name) for name in arguments[1:]]
    check_python()
    python = environment(folder)
    mend(folder)
    for lock in locks:
        install(python, lock)


def check_python() -> None:
    """SetupError unless this is one of the Pythons that the locks are made for."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = "{} is {}.{}".format(sys.executable, *sys.version_info[:2])
        raise SetupError(f"Python 3.10 to 3.13 is needed, {found}; try make PYTHON=python3.11")


def environment(folder: Path) -> Path:
    """Path of the environment's python; one without a working pip is made again."""
    python = folder / "bin" / "python"
    if works(python):
        return python
    if folder.exists():
        say(f"{folder} has no working Python 3.10 to 3.13 with pip; it is made again")
    if not importlib.util.find_spec("ensurepip"):
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        raise SetupError(
            f"{sys.executable} has no ensurepip, so an environment would have no pip; "
            f"install it (Debian, Ubuntu: apt install {package}), {AGAIN}"
        )
    base = getattr(sys, "_base_executable", sys.executable)  # not the environment's own
    status, errors = run([base, "-m", "venv", "--clear", str(folder)])
    if status:
        raise SetupError(explain(errors, status, folder, "venv"))
    return python


def works(python: Path) -> bool:
    """Whether that Python is one of ours, in an environment of its own, and starts its pip."""
    versions = f"{OLDEST} <= sys.version_info[:2] <= {NEWEST} and sys.prefix != sys.base_prefix"
    code = f"import sys, pip._internal.commands.install; sys.exit(not ({versions}))"
    try:
        done = subprocess.run(
            [str(python), "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:  # not there, or a link to a Python that is gone
        return False
    return done.returncode == 0


def install(python: Path, lock: Path) -> None:
    """Install what the lock pins; what is there in the right version stays."""
    say(f"{lock} into {python.parent.parent}")
    text = lock.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        tools = Path(scratch) / "build_tools.txt"
        tools.write_text("".join(BUILD_TOOLS.findall(text)), encoding="utf-8")
        steps = [[*PIP, "-r", str(tools)]] if tools.stat().st_size else []
        for step in [*steps, [*PIP, *BUILD, "-r", str(lock)]]:
            status, errors = run([str(python), *step])
            if status:
                raise SetupError(explain(errors, status, python.parent.parent, "pip"))


def mend(folder: Path) -> None:
    """Make pip install again what a killed pip left half installed.

    pip takes a package for installed once its METADATA is there, which is before its last file.
    """
    for packages in folder.glob("lib/python3.*/site-packages"):
        for leftover in packages.glob("~*"):  # pip's names while it replaces a package
            remove(leftover)
        for info in packages.glob("*.dist-info"):
            if not is_whole(info):
                say(f"{info.name.split('.dist-info')[0]} is incomplete; it is installed again")
                remove(info)


def is_whole(info: Path) -> bool:
    """Whether pip finished that package, and each file is there in its recorded size."""
    if not (info / "INSTALLER").is_file() or not (info / "RECORD").is_file():
        return False
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as record:
            rows = list(csv.reader(record))
    except (csv.Error, ValueError):  # bytes that a crash left
        return False
    return all(len(row) == 3 and is_there(info.parent / row[0], row[2]) for row in rows)


def is_there(path: Path, size: str) -> bool:
    """Whether the file has that size; without a size (bytecode) it may be missing."""
    try:
        return not size or path.stat().st_size == int(size)
    except OSError:
        return False


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        path.unlink()


def run(command: "list[str]") -> "tuple[int, str]":
    """Exit status and stderr of a command, which both go to the terminal as they come."""
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        assert child.stderr
        try:
            for line in child.stderr:
                os.write(2, line)
                lines.append(line.decode("utf-8", "replace"))
        except KeyboardInterrupt as stopped:
            end(child, 0 if stopped.args == (signal.SIGTERM,) else 3)
            raise
    return child.returncode, "".join(lines)


def end(child: "subprocess.Popen[bytes]", seconds: int) -> None:
    """Let the command clean up: Ctrl-C reached it too, which gets these seconds; kill did not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            child.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            child.send_signal(number)
            seconds = 3
    child.wait()


def explain(errors: str, status: int, folder: Path, name: str) -> str:
    """One line on why the command ended, in its own words where it has some."""
    full, silence = FULL.search(errors), NO_ANSWER.findall(errors)
    if full:
        return f"{full.group()}: {room(folder)}; make room, {AGAIN}"
    if silence:
        words = silence[-1].strip()
        return f"no answer from the package index ({words}); check the network, {AGAIN}"
    if "DO NOT MATCH THE HASHES" in errors:
        return "a file is not the one that the lock names, see above; it is not installed"
    found = [line for line in errors.splitlines() if re.match(r"ERROR|Error|\w+Error:", line)]
    words = found[-1].strip() if found else f"status {status}"
    return f"{name} failed ({words}); {room(folder)}; see above, {AGAIN}"


def room(folder: Path) -> str:
    """What is free where files go: in the environment, and in the folder where pip unpacks."""
    folder = (folder if folder.exists() else folder.parent).resolve()
    disks = {path.stat().st_dev: path for path in (Path(tempfile.gettempdir()), folder)}
    free = [f"{shutil.disk_usage(str(path)).free >> 20:,} MB in {path}" for path in disks.values()]
    return f"free are {' and '.join(free)}"


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def stop(number: int, _: object) -> None:
    """Each signal ends like Ctrl-C."""
    raise KeyboardInterrupt(number)


def parse() -> "list[str]":
    """The folder of the environment, then locks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="of the environment, such as .venv")
    parser.add_argument("locks", nargs="+", metavar="LOCK", help="a requirements.txt")
    arguments = parser.parse_args()
    return [arguments.folder, *arguments.locks]


if __name__ == "__main__":
    arguments = parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        main(arguments)
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        print(f"\nsetup: stopped; what was downloaded is kept, {AGAIN}", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"setup: {explain(str(error), 1, Path(arguments[0]), 'setup')}")
