"""The fixture of all fuzz tests."""

from fuzz.corrupt import bounded

__all__ = ["bounded"]
