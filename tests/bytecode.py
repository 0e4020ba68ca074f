"""Keeps bytecode, whatever the environment says. No test itself; imported first.

Else each process would compile the project anew, and pytest rewrite the assertions of all tests.
"""

from __future__ import annotations

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
