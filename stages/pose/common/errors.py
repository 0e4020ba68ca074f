"""The one exception for people's mistakes: stages print its text as one line and exit 1.

And the one for a run that was asked to stop, and text from files made fit for a message.
"""


class PoseError(Exception):
    """Says what is wrong, where (file, key or id), the value found and the next step."""


def printable(text: str) -> str:
    """The same with escapes for what would break a line or is not to be seen."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Stopped(Exception):  # noqa: N818  # no error
    """SIGTERM came and the state is saved; says how to go on."""
