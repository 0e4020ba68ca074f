"""The library the stages share; rooms and import rows are in README.md."""
