"""The graph from crops to keypoints with the network's matrix products in int8, for CPUs.

By ONNX Runtime's static quantisation (QDQ format): weights per channel, activations in uint8 with
ranges seen on training crops. Convolutions and decoding stay in float32: with int8 convolutions
OpenVINO loses more AP (benchmarks/inference.md).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from pose.deploy.keypoints_graph import CROPS

INT8_ONNX = "model_keypoints_int8.onnx"
OPERATORS = ("MatMul", "Gemm")
CALIBRATION = 128  # training crops
BATCH = 16
MEDIAN_TOLERANCE = 1.0  # largest median distance from float32's keypoints, pixels of the crop


class _Crops(CalibrationDataReader):  # type: ignore[misc]  # no annotations
    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self.batches = iter(np.split(crops, range(BATCH, len(crops), BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {CROPS: batch}


def write_int8(
    full: Path, path: Path, crops: NDArray[np.uint8], operators: tuple[str, ...] = OPERATORS
) -> None:
    """Quantise the file `full`; crops (N, h, w, 3) RGB determine the ranges."""
    with _quiet():
        quantize_static(
            full,
            path,
            _Crops(crops),
            op_types_to_quantize=list(operators),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to preprocess: torch's exporter has folded and inferred already.

    The library logs to the root logger, which adds a handler; it would print our lines twice.
    """
    handlers = logging.root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.root.handlers[:] = handlers
