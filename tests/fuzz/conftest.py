"""The fixture of all fuzz tests."""

from fuzz.spoil import bounded

__all__ = ["bounded"]
