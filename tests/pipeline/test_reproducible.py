"""The same commit gives the same bytes in another folder, however many workers help."""

from __future__ import annotations

from pathlib import Path

import reproduce
from pipeline.project import STAGES, FirstRun, ran


def test_another_folder_and_more_workers_give_the_same_lock(
    first_run: FirstRun, tmp_path: Path
) -> None:
    clone = first_run.project.clone(tmp_path)
    clone.workers, clone.preloaded = 2, False
    assert sorted(ran(clone.must("dvc", "repro", "--force"))) == sorted(STAGES)
    assert clone.content("dvc.lock") == first_run.project.content("dvc.lock")
    assert clone.changed() == set()  # the metrics too
    found = reproduce.digests(clone.root)  # of the files themselves: models, data, the page
    assert found == reproduce.digests(first_run.project.root)
    assert {"dvc.lock", "models/ssl.safetensors", "report", "data/cache"} <= set(found)
