"""The library the stages share; rooms are in README.md."""
