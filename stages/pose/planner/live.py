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

    `trace` has the sum after each operation, so that it includes what autograd stores, gradients
    and temporary tensors, in forward and backward. What kernels allocate and free inside is not
    seen. It works on fake tensors as on others.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """known: tensors that are not counted; they must outlive the mode."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.trace: list[int] = []
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value)
        self.trace.append(self.bytes)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.bytes += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.bytes -= size
