"""Memory in which a batch is put together and, where the model is on a GPU, travels there and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Outputs = npt.NDArray[np.float32]


class Staging:
    """Room for one batch at a time, made once. `put` may be called while the device runs the batch of another one.

    On a GPU the host's part is pinned: only such memory is copied while the caller goes on. Rows travel on a stream of
    their own, so that they arrive while the batch before them is computed.
    Source: https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html.
    """

    def __init__(self, max_rows: int, row_shape: Sequence[int], output_width: int, device: torch.device) -> None:
        self.max_rows = max_rows
        self.rows = 0
        """How many the batch in it has."""
        self._on_gpu = device.type != "cpu"
        self._host = torch.empty((max_rows, *row_shape), pin_memory=self._on_gpu)
        self._bytes = self._host.numpy().data.cast("B")
        self._inputs = self._host
        if self._on_gpu:
            self._inputs = torch.empty_like(self._host, device=device)
            self._outputs = torch.empty((max_rows, output_width), pin_memory=True)
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._returned = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._first: dict[int, Tensor] = {}

    def put(self, rows: Sequence[bytes]) -> None:
        """Begins a batch.

        Args:
            rows: one or more of float32 bytes, at most `max_rows` of them.
        """
        self.put_joined(b"".join(rows), len(rows))

    def put_joined(self, joined: bytes | memoryview, rows: int) -> None:
        """The same, for rows that lie one behind the other."""
        self._bytes[: len(joined)] = joined
        self.rows = rows
        if self._on_gpu:
            with torch.cuda.stream(self._stream):
                self._inputs[:rows].copy_(self._host[:rows], non_blocking=True)
                self._arrived.record()

    def inputs(self) -> Tensor:
        """The batch on the device, (rows, *row_shape). What is computed with it waits for its arrival."""
        if self._on_gpu:
            torch.cuda.current_stream().wait_event(self._arrived)
        inputs = self._first.get(self.rows)
        if inputs is None:  # a view costs 1.5 us to make
            inputs = self._first[self.rows] = self._inputs[: self.rows]
        return inputs

    def outputs(self, result: Tensor) -> Outputs:
        """What was computed, on the host; waits for it. The batch is done then, and the next may be put in."""
        if not self._on_gpu:
            own: Outputs = result.numpy()
            return own
        outputs = self._outputs[: len(result)]
        outputs.copy_(result, non_blocking=True)
        self._returned.record()
        self._returned.synchronize()
        copied: Outputs = outputs.numpy().copy()
        return copied
