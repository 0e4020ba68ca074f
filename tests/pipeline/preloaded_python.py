"""A Python server with the heavy libraries imported, which forks to run stages: they start at once.

    python tests/pipeline/preloaded_python.py SOCKET --preload torch ...    # the server
    python -S tests/pipeline/preloaded_python.py SOCKET stages/x.py ...     # run a script in a fork
    python -S tests/pipeline/preloaded_python.py SOCKET dvc repro ...       # run dvc in a fork

Only third-party libraries are preloaded; the script and pose/ are imported from the project that
sends the request. The fork takes environment, folder, arguments and streams from the client, which
ends as the fork does, be it by a signal. The fork ends without freeing its memory object by object:
that would copy the server's pages, 2 to 4 s a command. Other commands, and tests that kill
processes from outside, use the plain Python.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRELOAD = "--preload"
PLACES = ("stages/*", "tools/*", "recipes/*", "examples/*", "tests/two_processes")
SCRIPTS = [f"*/{place}.py" for place in PLACES]
# Not onnxruntime: it starts a thread, which a fork waits for in vain when it ends.
LIBRARIES = (
    "albumentations",
    "cv2",
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
    "dvclive",
    "hydra.compose",
    "jinja2",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "networkx",
    "onnx",
    "onnxscript.function_libs.torch_lib.ops",
    "pandas",
    "peft",
    "PIL.JpegImagePlugin",
    "platformdirs.unix",
    "psutil",
    "pyarrow",
    "pyarrow.pandas_compat",
    "pycocotools.cocoeval",
    "pydantic",
    "pydantic.dataclasses",
    "pygit2",
    "requests",
    "ruamel.yaml",
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


def ask(path: str, command: list[str]) -> int:
    """Exit code of the script or dvc `command`, run by the server at socket `path`.

    A signal that ended it ends this process, too.
    """
    request = {"argv": command, "cwd": os.getcwd(), "env": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"\0"], [0, 1, 2])
        server.sendall(json.dumps(request).encode() + b"\n")
        with server.makefile() as answers:
            pid = int(answers.readline())
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _: os.kill(pid, number))
            code = int(answers.readline() or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


@functools.cache
def python_folder(*libraries: str) -> str:
    """A folder with a `python` and a `dvc` that run through a server, which it starts.

    `python` does so for the scripts in PLACES, as torchrun starts them too, and for `-m dvc`.
    libraries: what the server imports, if not LIBRARIES.
    """
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    path = folder / "socket"
    command = [sys.executable, __file__, str(path), PRELOAD, *(libraries or LIBRARIES)]
    server = subprocess.Popen(command)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.kill)
    plain, client = shlex.quote(sys.executable), shlex.join([__file__, str(path)])
    through = f"exec {plain} -S {client}"
    script = " | ".join(SCRIPTS)
    scripts = f'case "/$1" in {script}) {through} "$@" ;; esac\n'
    of_torchrun = f'[ "$1" = "-u" ] && case "/$2" in {script}) shift ;; esac\n'
    of_dvc = f'[ "$1 $2" = "-m dvc" ] && shift 2 && {through} dvc "$@"\n'
    python = f'{of_torchrun}{scripts}{of_dvc}exec {plain} "$@"'
    for name, line in (("python", python), ("dvc", f'{through} dvc "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    while not path.exists():
        assert server.poll() is None, "the preloaded Python did not start"
        time.sleep(0.05)
    return str(folder)


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
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(5)  # seconds between checks that the tests still run
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # intermediate forks are not waited for
        while os.getppid() == tests:
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    return fork_and_wait(client)
                client.close()
    sys.exit()


def fork_and_wait(client: socket.socket) -> dict[str, Any]:
    """The request, in a further fork; this process waits for the fork and sends its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        client.close()
        return request | {"streams": streams}
    for stream in streams:
        os.close(stream)
    client.sendall(f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.sendall(f"{code}\n".encode())
    os._exit(0)


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
    if sys.argv[2] != PRELOAD:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    codes: list[int] = []
    atexit.register(end_at_once, codes)  # first, so that it is called last
    codes.append(run(serve(sys.argv[1], sys.argv[3:])))
