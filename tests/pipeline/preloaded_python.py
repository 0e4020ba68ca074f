"""A Python server with the heavy libraries imported, which forks to run stages: they start at once.

    python tests/pipeline/preloaded_python.py SOCKET torch ...              # the server
    python -S tests/pipeline/preloaded_client.py SOCKET stages/x.py ...     # run a script in a fork
    python -S tests/pipeline/preloaded_client.py SOCKET dvc repro ...       # run dvc in a fork

Only third-party libraries are preloaded; the script and pose/ are imported from the project that
sends the request. The fork takes environment, folder, arguments and streams from the client, which
ends as the fork does, be it by a signal. The server for dvc has no torch: a fork of it takes 0.02 s
instead of 0.1 s. A fork ends without freeing its memory object by object: that would copy the
server's pages, 2 to 4 s. Other commands, and tests that kill processes from outside, use the plain
Python.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import logging
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("preloaded_client.py")
PLACES = ("stages/*", "tools/*", "recipes/*", "examples/*", "tests/two_processes")
SCRIPTS = [f"*/{place}.py" for place in PLACES]
DVC_LIBRARIES = (
    "dulwich.porcelain",
    "dvc.cachemgr",
    "dvc.cli.parser",
    "dvc.data_cloud",
    "dvc.repo.artifacts",
    "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery",
    "dvc.repo.experiments.queue.tempdir",
    "dvc.repo.experiments.queue.workspace",
    "dvc.repo.experiments.run",
    "dvc.repo.index",
    "dvc.repo.plots",
    "dvc.repo.reproduce",
    "dvc.repo.stage",
    "dvc.scm",
    "dvc.stage.cache",
    "dvc.utils.hydra",
    "hydra.compose",
    "jinja2",
    "networkx",
    "platformdirs.unix",
    "psutil",
    "pygit2",
    "requests",
    "ruamel.yaml",
    "tqdm",
)
# Not onnxruntime: it starts a thread, which a fork waits for in vain when it ends.
LIBRARIES = (
    "albumentations",
    "cv2",
    "dvclive",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "onnx",
    "onnxscript.function_libs.torch_lib.ops",
    "pandas",
    "peft",
    "PIL.JpegImagePlugin",
    "pyarrow",
    "pyarrow.pandas_compat",
    "pycocotools.cocoeval",
    "pydantic",
    "pydantic.dataclasses",
    "safetensors.torch",
    "scipy.ndimage",
    "sympy.combinatorics",
    "timm",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.run",
    "torch.onnx._internal.exporter._core",
    "torchvision.transforms.v2",
    "tqdm",
)


@functools.cache
def python_folder(*libraries: str) -> str:
    """A folder with a `python` and a `dvc` that run through servers, which it starts.

    `python` does so for the scripts in PLACES, as torchrun starts them too, and for `-m dvc`.
    libraries: what the server for scripts imports, if not LIBRARIES.
    """
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    atexit.register(shutil.rmtree, folder)
    sockets = {"scripts.socket": libraries or LIBRARIES, "dvc.socket": DVC_LIBRARIES}
    servers = [start_server(folder / name, preload) for name, preload in sockets.items()]
    plain, client = shlex.quote(sys.executable), shlex.quote(str(CLIENT))
    of_scripts, of_dvc = (
        f"exec {plain} -S {client} {shlex.quote(str(folder / name))}" for name in sockets
    )
    script = " | ".join(SCRIPTS)
    python = (
        f'[ "$1" = "-u" ] && case "/$2" in {script}) shift ;; esac\n'  # as torchrun starts it
        f'case "/$1" in {script}) {of_scripts} "$@" ;; esac\n'
        f'[ "$1 $2" = "-m dvc" ] && shift 2 && {of_dvc} dvc "$@"\n'
        f'exec {plain} "$@"'
    )
    for name, line in (("python", python), ("dvc", f'{of_dvc} dvc "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    for server, name in zip(servers, sockets, strict=True):
        while not (folder / name).exists():
            assert server.poll() is None, "the preloaded Python did not start"
            time.sleep(0.05)
    return str(folder)


def start_server(path: Path, libraries: Sequence[str]) -> subprocess.Popen[bytes]:
    """A server at the socket `path`, until this process ends."""
    server = subprocess.Popen([sys.executable, __file__, str(path), *libraries])
    atexit.register(server.kill)
    return server


def serve(path: str, libraries: list[str]) -> dict[str, Any]:
    """Answer requests. Returns only in a fork, with the request that the fork has to run."""
    import importlib

    from parsed_yaml import keep_parsed_yaml, keep_written_locks  # beside this script

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, see pose.models
    for name in libraries:
        importlib.import_module(name)
    parsed = Path(path).parent / "parsed"
    keep_parsed_yaml(parsed)
    if "dvc" in sys.modules:
        keep_written_locks(parsed)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all pages
    sys.executable = str(Path(path).parent / "python")  # what a script starts in turn
    tests = os.getppid()
    running: dict[int, socket.socket] = {}  # forks, and the clients that wait for them
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        woken, wake = map(opened.enter_context, socket.socketpair())
        selector = opened.enter_context(selectors.DefaultSelector())
        listener.bind(path)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)  # select returns when a fork ends
        while os.getppid() == tests:
            for key, _ in selector.select(5):  # seconds between checks that the tests still run
                if key.fileobj is woken:
                    woken.recv(1024)
                    answer_of_ended(running)
                    continue
                client, request = accept(listener)
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (client, *running.values()):
                        other.close()
                    return request
                client.sendall(f"{pid}\n".encode())
                running[pid] = client
                for stream in request["streams"]:
                    os.close(stream)
    sys.exit()


def accept(listener: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
    """The next client, and its request: argv, cwd, env and the three streams."""
    client, _ = listener.accept()
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as lines:
        return client, json.loads(lines.readline()) | {"streams": streams}


def answer_of_ended(running: dict[int, socket.socket]) -> None:
    """Sends the exit codes of forks that ended, and forgets them."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as client, contextlib.suppress(BrokenPipeError):
                client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def run(request: dict[str, Any]) -> int:
    """Exit code of the command, run as `python stages/x.py` or `dvc` would; prints its error."""
    import importlib
    import runpy

    for number, stream in enumerate(request["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    sys.path[1:1] = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    if "POSE_TEST_NOTES" in request["env"]:  # see tests/recording
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    try:
        if sys.argv[0] == "dvc":
            runpy.run_module("dvc", run_name="__main__")
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return int(end.code or 0)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end_at_once(codes: list[int]) -> None:
    """End this process with the command's exit code, if it has one."""
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    codes: list[int] = []
    atexit.register(end_at_once, codes)  # first, so that it is called last
    codes.append(run(serve(sys.argv[1], sys.argv[2:])))
