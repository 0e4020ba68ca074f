"""Sends a script or dvc command to the server of preloaded_python.py, and ends as its fork does.

Its own file, with few imports: it starts for each command.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


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


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
