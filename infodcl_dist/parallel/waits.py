"""How long this process waits for other ranks: every `Work.wait` of torch's collectives, whoever called it."""

import time
from types import TracebackType
from typing import Any

from torch.distributed import Work

_Patched: Any = Work  # as what may be changed


class Waits:
    """Adds up the seconds that the process waits in its block: our collectives, TorchRec's and DeepSpeed's.

    On a GPU a wait only orders streams, so this is of use with gloo alone.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.count = 0

    def __enter__(self) -> "Waits":
        self._wait = original = _Patched.wait

        def wait(work: Work, *arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(work, *arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started
                self.count += 1

        _Patched.wait = wait
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _Patched.wait = self._wait
