"""SIGTERM, as torchrun and schedulers send it: all ranks stop after the same step, saved, with a status of its own."""

import signal
import threading
from types import FrameType, TracebackType

from infodcl_dist.parallel.collectives import AnyRank

# EX_TEMPFAIL of sysexits.h: the same command, run again, goes on.
STATUS = 75


class Preempted(Exception):
    """The run was asked to stop, and says what is saved."""


class StopRequest:
    """Whether any rank was asked to stop, from entering the context on.

    Python lets the main thread alone listen to signals; elsewhere (a tuner's worker thread) nothing is asked.

    Args:
        timeout_s: longest wait for another rank's answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._asked = False
        self._any_rank = AnyRank(timeout_s)

    def __enter__(self) -> "StopRequest":
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def agreed(self) -> bool:
        """The same answer on every rank; a collective."""
        return self._any_rank(self._asked)

    def check(self) -> None:
        """To be called where nothing is left to save; a collective.

        Raises:
            Preempted: any rank was asked to stop.
        """
        if self.agreed():
            raise Preempted("asked to stop before there was anything to save; run the same command to begin")

    def _ask(self, signal_number: int, frame: FrameType | None) -> None:
        self._asked = True
