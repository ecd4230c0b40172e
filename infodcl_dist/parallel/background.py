"""A job beside training: on a thread and a gloo group of its own, so that its collectives never meet training's."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from infodcl_dist.parallel.collectives import SideGroup, side_group


class Background:
    """Runs one job at a time. All ranks start the same jobs in the same order."""

    def __init__(self, timeout_s: float) -> None:
        self._group = side_group(timeout_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._job: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job of this rank is under way."""
        return self._job is not None and not self._job.done()

    def start(self, job: Callable[[SideGroup], None]) -> None:
        """Waits for the job before, and starts this one; it may use the collectives that take a group, with this one.

        Raises:
            Exception: whatever the job before raised.
        """
        self.wait()
        self._job = self._thread.submit(job, self._group)

    def wait(self) -> None:
        """Until no job is under way.

        Raises:
            Exception: whatever the job raised.
        """
        job, self._job = self._job, None
        if job is not None:
            job.result()
