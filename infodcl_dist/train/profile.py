"""A profiler's trace of some steps, with the spans of `base.spans`; chrome://tracing and Perfetto show it."""

from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from infodcl_dist.base.console import log
from infodcl_dist.base.files import new_file

# Steps that pass unrecorded: the first ones allocate, and the profiler's own start is slow.
WAIT, WARM_UP = 2, 2


class StepTrace:
    """Records `steps` steps and writes `rank-R.json` into a folder; with 0 steps does nothing.

    Args:
        folder: for the traces of all ranks.
        steps: how many are recorded. A run that ends earlier leaves what it did.
        rank: of this process.
    """

    def __init__(self, folder: Path, steps: int, rank: int) -> None:
        self._file = folder / f"rank-{rank}.json"
        self._profiler: profile | None = None
        if steps > 0:
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = profile(
                activities=[ProfilerActivity.CPU, *on_gpu],
                schedule=schedule(wait=WAIT, warmup=WARM_UP, active=steps, repeat=1),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> "StepTrace":
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def after_step(self) -> None:
        """To be called after every step."""
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: profile) -> None:
        with new_file(self._file) as building:
            profiler.export_chrome_trace(str(building))
        log.info("profile of %d steps: %s", profiler.step_num - WAIT - WARM_UP, self._file)
