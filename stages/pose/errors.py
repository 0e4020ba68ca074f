"""The one exception for people's mistakes: stages print its text as one line and exit 1."""


class PoseError(Exception):
    """Says what is wrong, where (file, key or id), the value found and the next step."""
