"""The one exception for people's mistakes: stages print its text as one line and exit 1.

And the one for a run that was asked to stop.
"""


class PoseError(Exception):
    """Says what is wrong, where (file, key or id), the value found and the next step."""


class Stopped(Exception):  # noqa: N818  # no error
    """SIGTERM came and the state is saved; says how to go on."""
