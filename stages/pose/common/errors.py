"""Exceptions that end a stage with one line: a user's error, or a stop by SIGTERM."""

from __future__ import annotations

from collections.abc import Sequence


class PoseError(Exception):
    """A user's error: what is wrong, where (file, key or id), the value, and the next step."""


def printable(text: str) -> str:
    r"""Text with unprintable characters escaped, so that it stays on one line of a message.

    >>> print(printable("a\nb"))
    a\nb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shorten(names: Sequence[str]) -> str:
    """All names, or the first 20 and their total number."""
    listed = ", ".join(names[:20])
    return listed if len(names) <= 20 else f"{listed} ... ({len(names)} in all)"


class Stopped(Exception):  # noqa: N818  # no error
    """SIGTERM was received and the state is saved; the text says how to continue."""


class ProcessesEnded(Exception):  # noqa: N818  # no error
    """The processes that ran the stage have ended, with an exit code; str(): what to print last."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
