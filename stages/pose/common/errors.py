"""Exceptions that end a stage with one line: a user's error, or a stop by SIGTERM."""


class PoseError(Exception):
    """A user's error: what is wrong, where (file, key or id), the value, and the next step."""


def printable(text: str) -> str:
    r"""Text with unprintable characters escaped, so that it stays on one line of a message.

    >>> print(printable("a\nb"))
    a\nb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Stopped(Exception):  # noqa: N818  # no error
    """SIGTERM was received and the state is saved; the text says how to continue."""
