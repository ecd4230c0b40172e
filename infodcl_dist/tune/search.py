"""The next trial's parameters, as a function of the space, the seed and the trials so far: nothing else is remembered.

So a sweep that was killed goes on as it would have gone. Random and grid do not look at other trials at all, so theirs
are the same whatever was finished when; tpe's are when one trial runs at a time.
"""

from collections.abc import Callable

import optuna
from optuna.trial import TrialState, create_trial

from infodcl_dist.base.random import key_for
from infodcl_dist.tune.config import DEFAULT_TRIALS, TuneConfig
from infodcl_dist.tune.space import Parameters, grid_of
from infodcl_dist.tune.study import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)  # plots make studies of it too
_SEEDS = 2**32  # of NumPy's generators, which Optuna uses


def number_of_trials(config: TuneConfig) -> int:
    """How many trials the sweep has."""
    if config.search != "grid":
        return config.trials or DEFAULT_TRIALS
    combinations = len(grid_of(config.space))
    return min(config.trials or combinations, combinations)


def propose(config: TuneConfig, number: int, trials: list[Trial], value: Callable[[int], float]) -> Parameters:
    """Parameters of trial `number`.

    Args:
        config: the sweep.
        number: of the trial, from 0.
        trials: the records of earlier ones; of those that still run, tpe assumes the worst, so that it looks elsewhere.
        value: of a done trial, by its number; larger is better.
    """
    if config.search == "grid":
        return grid_of(config.space)[number]
    distributions = {key: dimension.distribution() for key, dimension in config.space.items()}
    study = optuna.create_study(direction="maximize", sampler=_sampler(config, number))
    if config.search == "tpe":
        for trial in trials:
            internal = {key: config.space[key].encode(found) for key, found in trial.parameters.items()}
            study.add_trial(
                create_trial(
                    params=internal,
                    distributions=distributions,
                    value=value(trial.number) if trial.is_done else None,
                    state=TrialState.COMPLETE if trial.is_done else TrialState.RUNNING,
                )
            )
    found = study.ask(distributions).params
    return {key: dimension.decode(found[key]) for key, dimension in config.space.items()}


def _sampler(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    seed = key_for(config.seed, "trial", number) % _SEEDS
    if config.search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.startup_trials, constant_liar=True)
