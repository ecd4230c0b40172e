"""What of a profiler's events counts as which part of a step."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent, Kernel

from infodcl_dist.base.spans import span
from infodcl_dist.bench.step import _by_part, _record


def event(name: str, thread: int, *us: int, kernel_us: int = 0, device: DeviceType = DeviceType.CPU) -> FunctionEvent:
    made = FunctionEvent(
        id=0, name=name, thread=thread, start_us=us[0], end_us=us[1], device_type=device, use_device="cuda"
    )
    made.kernels = [Kernel("k", 0, kernel_us)] if kernel_us else []
    return made


EVENTS = [
    event("bpr", 1, 0, 100, kernel_us=30),
    event("bpr", 7, 0, 90, device=DeviceType.CUDA),  # the GPU's copy of the span
    event("backward", 1, 100, 200),
    event("MulBackward0", 2, 110, 120, kernel_us=40),
    event("AddBackward0", 2, 150, 160, kernel_us=5),
    event("copy ahead", 2, 250, 260, kernel_us=1000),  # after it
    event("aten::mul", 1, 110, 120, kernel_us=1000),  # on the span's own thread: it would lie in it
]


def test_seconds_of_the_processor() -> None:
    assert _by_part(EVENTS, on_gpu=False) == {"bpr": pytest.approx(100e-6), "backward": pytest.approx(100e-6)}


def test_kernels_of_autograd_s_thread_are_the_backward_pass_s() -> None:
    assert _by_part(EVENTS, on_gpu=True) == {"bpr": pytest.approx(30e-6), "backward": pytest.approx(45e-6)}


def test_seconds_are_those_of_a_step_however_few_an_epoch_has() -> None:
    def run(most: int) -> int:
        for _ in range(2):
            with span("bpr"):
                time.sleep(0.1)
        return 2

    training: Any = SimpleNamespace(run=run, setting=SimpleNamespace(group=SimpleNamespace(device=torch.device("cpu"))))
    found = _record(training)
    assert 0.1 <= found["bpr"] <= found["step"] < 0.2
