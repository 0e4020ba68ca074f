"""Turn the .in files into locks: every version and hash, for Python 3.10 to 3.13.

    python tools/lock.py

Runs `uv pip compile`, which keeps the versions that are pinned already. pip before 23.3 resolves
`name`, `name[a]` and `name[b]` each on its own, and takes the newest release for the one that has
no line; so a package that several others ask for gets a line for each way of asking. Needs the
package index; a minute.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

RUN, DEV, REVIEW = "requirements", "requirements-dev", "tools/requirements"
OPTIONS = (
    "--universal --python-version 3.10 --generate-hashes --no-strip-extras --no-header --quiet"
)
ENTRY = re.compile(r"^\S.*\n(?:[ \t]+.*\n)*", re.M)
WITH_EXTRAS = re.compile(r"([\w.-]+)\[([^\]]+)\](==.*)", re.S)


def main() -> None:
    compile_lock(RUN)
    compile_lock(DEV, "--constraint", f"{RUN}.txt")
    compile_lock(REVIEW, "--constraint", f"{RUN}.txt")


def compile_lock(name: str, *options: str) -> None:
    """Writes NAME.txt of NAME.in; SystemExit after what uv printed if it cannot."""
    lock = f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS.split(), *options]
    if subprocess.run([*command, "--output-file", lock, f"{name}.in"], check=False).returncode:
        sys.exit(f"{lock}: uv found no versions that fit together; see above")
    text = Path(lock).read_text(encoding="utf-8")
    Path(lock).write_text(with_all_extras(text), encoding="utf-8")
    print(f"{lock}: written")


def with_all_extras(text: str) -> str:
    """The lock, where each entry with extras has a line for each way in which they are asked for.

    uv writes the union, name[a, b]. One asker: it asks for just that. Several: name, name[a],
    name[b] and name[a,b]; a rarer mix than these makes tests/test_locks.py fail.
    """
    entries = [found.group() for found in ENTRY.finditer(text)]
    return "".join(dict.fromkeys(form for entry in entries for form in forms(entry)))


def forms(entry: str) -> list[str]:
    """The entry with its extras written out, one text per combination of extras."""
    found = WITH_EXTRAS.fullmatch(entry)
    if not found:
        return [entry]
    name, inside, rest = found.groups()
    extras = re.split(r",\s*", inside)
    mixes = [[], *([extra] for extra in extras), extras] if asker_count(entry) > 1 else [extras]
    return [name + (f"[{','.join(mix)}]" if mix else "") + rest for mix in mixes]


def asker_count(entry: str) -> int:
    """How many packages uv names after "via"; a constraint (-c) asks for nothing."""
    names = re.findall(r"^ +# +(?:via +)?(\S.*)$", entry, re.M)
    return len([name for name in names if name != "via" and not name.startswith("-c ")])


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
