"""The training curves that stay in git, metrics/<stage>/{curves,val_AP}.csv, made of logged rows.

dvclive's own files, one per metric, lie in metrics/<stage>/plots, which DVC stores.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pose.common.files import write_atomic
from pose.engine.fit import Row

COLUMNS = ("step", "loss", "lr", "grad_norm")


def write_curves(folder: Path, history: Sequence[Row]) -> None:
    """curves.csv: step, loss, lr, grad_norm and what else is logged; val_AP.csv: step, val_AP.

    Both are written also if there are no rows. A step without a value, as when every step since the
    row before was skipped, has an empty cell.
    """
    validated = [row for row in history if "val_AP" in row]
    trained = [row for row in history if "val_AP" not in row]
    columns = dict.fromkeys([*COLUMNS, *(name for row in trained for name in row)])
    _write_csv(folder / "curves.csv", list(columns), trained)
    _write_csv(folder / "val_AP.csv", ["step", "val_AP"], validated)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "step": int(row["step"])} for row in rows)
    write_atomic(path, text.getvalue().encode())
