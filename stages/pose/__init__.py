"""The library that the stages share. CONTRIBUTING.md lists its rooms and what an edit reruns.

Letters in shapes: B batch, N people, K keypoints, H W heatmap, h w input, C channels, D embedding.
"""

import os

# OpenMP's threads wait for each other in a loop, by libgomp's default of 300,000 rounds. Beside
# other processes this takes the core from the thread that is waited for (benchmarks/contention.md).
# libgomp reads the variable when torch is imported, so scripts import pose first. Results do not
# depend on it.
SPIN_COUNT = "1000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
