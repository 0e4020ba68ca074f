"""Bytes of the tensors that live during a piece of code, counted from the operations it calls."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Sums storages from the operation that makes them until they are freed, views only once.

    `trace` has a row after each operation, so that it includes what autograd stores, gradients and
    temporary tensors, in forward and backward: bytes that do not depend on the batch, bytes per
    sample, and the value of `block`, which whoever runs the model sets. What kernels allocate and
    free inside is not seen. It works on fake tensors as on others.
    """

    def __init__(self, batch: int, known: Iterable[Tensor] = ()) -> None:
        """batch: samples; a prime that divides the sizes of tensors which have samples, and of no
        others. known: tensors that are not counted; they must outlive the mode."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        self.fixed = self.per_sample = self.block = 0
        self.trace: list[tuple[int, int, int]] = []
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value)
        self.trace.append((self.fixed, self.per_sample, self.block))
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self._add(size)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._add(-size)

    def _add(self, size: int) -> None:
        samples, rest = divmod(size, self.batch)
        if rest:
            self.fixed += size
        else:
            self.per_sample += samples
