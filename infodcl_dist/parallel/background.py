"""A job beside training: on a thread and a gloo group of its own, so that its collectives never meet training's."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from infodcl_dist.parallel.collectives import SideGroup, side_group


class Background:
    """Runs one job at a time. All ranks start the same jobs in the same order.

    Args:
        timeout_s: longest wait of a job for another rank.
        device: of this rank. A new thread's is the first GPU, where every rank's job would open a context.
    """

    def __init__(self, timeout_s: float, device: torch.device) -> None:
        self._group = side_group(timeout_s)
        settle = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background", initializer=settle)
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
