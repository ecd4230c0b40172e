"""When a run saves, how many checkpoints it keeps, and which one it goes on from."""

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field

from infodcl_dist.base.config import Config
from infodcl_dist.base.console import log
from infodcl_dist.base.errors import Unavailable, UserError
from infodcl_dist.parallel.background import Background
from infodcl_dist.parallel.collectives import SideGroup
from infodcl_dist.parallel.folders import clear_unfinished, on_rank_zero
from infodcl_dist.train.checkpoint import (
    CheckpointFailed,
    check_files_together,
    copy_for_checkpoint,
    load_checkpoint,
    write_checkpoint,
)
from infodcl_dist.train.preemption import Preempted, StopRequest
from infodcl_dist.train.state import FitState
from infodcl_dist.train.step import Step
from infodcl_dist.train.sums import LossSums


class CheckpointConfig(Config):
    """Checkpoints to go on from; the best model is kept apart from them."""

    every_steps: int | None = Field(
        default=None, ge=1, description="steps between checkpoints; null: at epoch ends alone"
    )
    every_seconds: float = Field(
        default=60, ge=0, description="at epoch ends, before an evaluation, save when the last one is so old"
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept")


class Checkpoints:
    """The checkpoints of a run: `step-NNNNNNNNN` folders, by the number of steps done.

    Calling it with the loop's state saves when one is due, and when the run was asked to stop. Training waits for a
    copy of the tables on the host, not for the disk; leaving the context waits for the last save.

    Args:
        folder: where they lie.
        config: when to save and how many to keep.
        step: whose tables, channels and optimizers are saved.
        stop: where to look for a request to stop.
        timeout_s: longest wait for another rank while saving.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        step: Step,
        stop: StopRequest,
        *,
        timeout_s: float,
    ) -> None:
        self._folder, self._config, self._step, self._stop = folder, config, step, stop
        self._background = Background(timeout_s, step.tables.user_rows.device)
        self._saved_at, self._is_saved = time.monotonic(), True  # the last one, if there was any

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._background.wait()
        except Exception as unsaved:
            if error is None:
                raise
            # What ended the run is the news; a save that it cut off is a consequence.
            log.warning("the checkpoint in progress was not finished: %s", next(iter(str(unsaved).splitlines()), ""))

    def __call__(self, state: FitState, sums: LossSums | None, *, is_last_step: bool = False) -> None:
        """Saves when due, see `train.loop.Keep`.

        Raises:
            Preempted: the run was asked to stop; it says whether the checkpoint is saved.
        """
        stop = self._stop.agreed()
        if stop or (sums is not None and self._is_due(state, is_last_step=is_last_step)):
            self.save(state, sums)
        if stop:
            self._background.wait()
            if not self._is_saved:
                raise Preempted(
                    f"asked to stop, but step {state.steps_done} could not be saved; run the same command to go on "
                    "from the checkpoint before, if there is one"
                )
            raise Preempted(f"asked to stop after {state.steps_done} steps; run the same command to go on")

    def save(self, state: FitState, sums: LossSums | None) -> None:
        """Copies what is to be saved, and has it written beside training, after the save before.

        A failure is told, leaves the older checkpoints, and the run goes on.
        """
        if sums is not None:
            state = replace(state, loss_sums=sums.by_rank())
        self._background.wait()  # so that there is one copy at a time
        copy = copy_for_checkpoint(self._step)
        copied_at = time.monotonic()
        self._background.start(lambda group: self._write(copy, state, copied_at, group))

    def _write(self, copy: dict[str, Any], state: FitState, copied_at: float, group: SideGroup) -> None:
        try:
            write_checkpoint(self._folder / f"step-{state.steps_done:09d}", copy, state, group)
        except CheckpointFailed as failure:
            log.warning("checkpoint not saved, the older one stays: %s", failure)
            self._is_saved = False
            return
        self._is_saved, self._saved_at = True, copied_at
        on_rank_zero(self._drop_oldest, group)

    def resume(self) -> FitState:
        """Loads the newest checkpoint that is whole into step and channels; the very start when there is none."""
        newest = self._newest_whole()
        if newest is None:
            return FitState()
        state = load_checkpoint(newest, self._step)
        log.info("going on from %s: epoch %d, step %d", newest, state.epoch, state.step)
        return state

    def _is_due(self, state: FitState, *, is_last_step: bool) -> bool:
        every = self._config.every_steps
        if every is not None and state.steps_done % every == 0:
            return True
        # Rank 0's clock decides, since clocks differ.
        return is_last_step and on_rank_zero(self._last_one_is_old)

    def _last_one_is_old(self) -> bool:
        return not self._background.is_busy and time.monotonic() - self._saved_at >= self._config.every_seconds

    def _newest_whole(self) -> Path | None:
        """What is newer and not whole goes, and half saves with it: they would take the place of those to come."""
        for folder in on_rank_zero(self._newest_first):
            try:
                check_files_together(folder)
            except Unavailable:
                raise  # what cannot be read now may be whole
            except UserError as problem:
                on_rank_zero(partial(_pass_over, folder, str(problem)))
                continue
            return folder
        return None

    def _newest_first(self) -> list[Path]:
        clear_unfinished(self._folder)
        return sorted(self._folder.glob("step-*"), reverse=True)

    def _drop_oldest(self) -> None:
        for folder in sorted(self._folder.glob("step-*"))[: -self._config.keep]:
            shutil.rmtree(folder, ignore_errors=True)


def _pass_over(folder: Path, problem: str) -> None:
    log.warning("checkpoint passed over, and removed: %s", problem)
    shutil.rmtree(folder, ignore_errors=True)
