"""The configuration of a sweep."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field

from infodcl_dist.base.config import Config, load_config, read_yaml
from infodcl_dist.base.errors import UserError
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_device
from infodcl_dist.tune.space import Dimension


class BaseSection(Config):
    """The run that trials vary."""

    config: Path | None = Field(
        default=None, description="configuration of a run, YAML, by the working directory; run.path is each trial's own"
    )
    overrides: tuple[str, ...] = Field(default=(), description="section.key=value, as `train` takes them")


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al., 2020): at epochs g, gη, gη², … a trial below the best 1/η stops."""

    enabled: bool = Field(default=True, description="whether trials are stopped early; patience holds in any case")
    grace_epochs: int = Field(default=20, ge=1, description="g, epochs that every trial may train")
    reduction_factor: float = Field(default=3, gt=1, description="η")


DEFAULT_TRIALS = 40


def _space_of_file(space: object) -> object:
    if not isinstance(space, (dict, str)):
        raise ValueError("must map keys of a run to their values, or name a YAML file that does")
    return read_yaml(Path(space)) if isinstance(space, str) else space


class TuneConfig(Config):
    """A sweep. A trial is a group of workers that trains one run; its value is the best validation Recall@20."""

    path: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        description="study folder; made here. All machines of a cluster see it, and the dataset"
    )
    base: BaseSection = BaseSection()
    space: Annotated[dict[str, Dimension], BeforeValidator(_space_of_file)] = Field(
        description="values by key of a run: {loguniform: [low, high]}, {uniform: …}, {int: …}, {quniform: [low, high, "
        "step]}, {choice: […]}; or a YAML file with such a mapping, by the working directory"
    )
    search: Literal["tpe", "random", "grid"] = Field(
        default="tpe",
        description="tpe: Optuna's tree-structured Parzen estimator, from the trials so far; random; grid: all "
        "combinations. Random and grid give the same trials whatever happens to be finished when",
    )
    startup_trials: int = Field(default=10, ge=1, description="random trials before tpe models anything")
    trials: int | None = Field(
        default=None,
        ge=1,
        description=f"number of trials; null: {DEFAULT_TRIALS}, and of a grid all combinations (a number: its first)",
    )
    seed: int = Field(default=0, ge=0, description="of the search; run.seed is a key of the run")
    workers_per_trial: int = Field(default=1, ge=1, description="processes of a trial's group")
    cpus_per_worker: int = Field(default=1, ge=1, description="cores, and threads, of a worker")
    gpus_per_worker: int = Field(default=0, ge=0, le=1, description="1 where workers train on a GPU")
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        description="trials at a time, at most; null: as many as the machine or cluster has room for",
    )
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="cores of this machine to use; null: all that this process may use. (A running cluster has its own "
        "count.)",
    )
    retries: int = Field(default=2, ge=0, description="how often a trial goes on after a worker died or failed")
    asha: AshaConfig = AshaConfig()

    def base_run(self) -> RunConfig:
        """The base configuration.

        Raises:
            UserError: a key or value of it does not fit, or its tables not on what workers train on, which need not be
                this machine.
        """
        run = load_config(RunConfig, self.base.config, [*self.base.overrides, f"run.path={self.path / 'base'}"])
        try:
            check_device(run, torch.device("cuda" if self.gpus_per_worker > 0 else "cpu"))
        except UserError as problem:
            remedy = "" if self.gpus_per_worker > 0 else ", or gpus_per_worker=1 to train on GPUs"
            raise UserError(f"{problem}{remedy}") from None
        return run
