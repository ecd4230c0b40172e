"""`bench step`: a training step by part, from the spans of `base.spans` in a profiler's events."""

import time
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from infodcl_dist.base.spans import SPANS
from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting, Training
from infodcl_dist.bench.step_model import step_costs
from infodcl_dist.parallel.waits import Waits

STEPS = 5  # recorded at once, or as many as are measured of an epoch; a repeat's figure is their mean
TABLES = ("[input_dist]", "[splits_dist]", "[lookup]", "[output_dist]")  # TorchRec's own names for its phases
BACKWARD = "backward"
WHOLE, REST, WAITS = "step", "not in any part", "waits for other ranks"
# Parts that lie in another one are shown below it and not added up.
INNER = {"psnet": "channels", "diffusion": "channels", "communication": "many"}


def measure(setting: Setting) -> list[Figure]:
    """A line a part. The profiler's own cost, some microseconds an operation, is in them."""
    training = Training(setting)
    for _ in range(setting.warm_up):
        training.run(STEPS)
    recorded = [_record(training) for _ in range(setting.repeats)]
    costs = step_costs(setting.shape)
    # Other parts are counted as a whole, forward and backward, and measured apart.
    counted = {WHOLE: list(costs.values()), "contrastive": [costs["contrastive"]] if "contrastive" in costs else []}
    figures = []
    for part in (WHOLE, *SPANS, REST, WAITS):
        seconds = tuple(parts[part] for parts in recorded)
        figures.append(
            Figure(
                f"  {part}, in {INNER[part]}" if part in INNER else part,
                seconds,
                interactions=setting.config.train.global_batch_size if part == WHOLE else 0,
                flops=sum(cost.flops for cost in counted.get(part, [])),
                bytes=sum(cost.bytes for cost in counted.get(part, [])),
            )
        )
    return figures


def _record(training: Training) -> dict[str, float]:
    """Seconds a step by part."""
    on_gpu = training.setting.group.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler, Waits() as waiting:
        started = time.perf_counter()
        steps = training.run(STEPS)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    found = _by_part(profiler.events(), on_gpu=on_gpu)
    parts = defaultdict(float, {part: value / steps for part, value in found.items()})
    parts[WHOLE] = seconds / steps
    added = sum(parts[part] for part in SPANS if part not in INNER)
    parts[REST] = max(parts[WHOLE] - added, 0.0)
    parts[WAITS] = 0.0 if on_gpu else waiting.seconds / steps
    return parts


def _by_part(events: Iterable[FunctionEvent], *, on_gpu: bool) -> dict[str, float]:
    """Seconds: of the processor, or of the kernels that it launched.

    The GPU's own copy of each span is passed over. On a GPU autograd works on a thread of its own, so its kernels lie
    in no span: those that were launched there meanwhile are the backward pass's.
    """
    found: defaultdict[str, float] = defaultdict(float)
    of_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    for event in of_cpu:
        part = part_of(event.name)
        if part is not None:
            found[part] += (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6
    if on_gpu:
        for span in (event for event in of_cpu if event.name == BACKWARD):
            found[BACKWARD] += sum(event.device_time_total for event in of_cpu if _is_beside(event, span)) / 1e6
    return found


def _is_beside(event: FunctionEvent, span: FunctionEvent) -> bool:
    """Whether it began on another thread, by itself, during the span."""
    began = event.time_range.start
    during = span.time_range.start <= began <= span.time_range.end
    return during and event.thread != span.thread and event.cpu_parent is None


def part_of(name: str) -> str | None:
    """The part that an event's name belongs to."""
    if name in SPANS:
        return name
    return "tables" if name.startswith(TABLES) else None
