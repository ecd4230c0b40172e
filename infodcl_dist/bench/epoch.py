"""`bench epoch`: training as it runs, batches and both optimizers included, evaluation left out."""

from infodcl_dist.bench.figures import Figure
from infodcl_dist.bench.setting import Setting, Training
from infodcl_dist.bench.step_model import step_costs
from infodcl_dist.parallel.waits import Waits


def measure(setting: Setting) -> list[Figure]:
    """An epoch (or its first `max_steps` steps), and what of it was waited for other ranks."""
    training = Training(setting)
    waits: list[float] = []

    def run() -> None:
        with Waits() as waiting:
            training.run()
        waits.append(waiting.seconds)

    seconds = setting.timed(run)
    costs = step_costs(setting.shape).values()
    whole = training.steps == training.batches.steps
    figures = [
        Figure(
            "epoch" if whole else f"{training.steps} of an epoch's {training.batches.steps:,} steps",
            seconds,
            interactions=training.examples,
            flops=sum(cost.flops for cost in costs) * training.steps,
            bytes=sum(cost.bytes for cost in costs) * training.steps,
        )
    ]
    if setting.group.world_size > 1 and setting.group.device.type == "cpu":
        figures.append(Figure("of it, waits for other ranks", tuple(waits[setting.warm_up :])))
    return figures
