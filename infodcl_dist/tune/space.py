"""Search spaces: for keys of a run's configuration, the values that a sweep may give them."""

import json
import math
from collections.abc import Mapping
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

from optuna import distributions
from pydantic import Field, model_validator

from infodcl_dist.base.config import Config, as_values, with_values
from infodcl_dist.base.errors import UserError
from infodcl_dist.recipe.config import RunConfig

# What tells trials, or the data that they are compared on, apart.
NOT_SEARCHED = ("run.path", "run.overwrite", "data.path")

Parameters = dict[str, Any]
"""A trial's values by configuration key."""


class Dimension(Config):
    """The values of one key. Exactly one of these is given; ends belong to the range."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, description="any of these; lists too")
    uniform: tuple[float, float] | None = Field(default=None, description="[low, high]")
    loguniform: tuple[float, float] | None = Field(default=None, description="[low, high], uniform in the logarithm")
    integer: tuple[int, int] | None = Field(default=None, alias="int", description="[low, high]")
    quniform: tuple[float, float, float] | None = Field(default=None, description="[low, high, step]")

    @model_validator(mode="after")
    def _check_kind(self) -> "Dimension":
        given = {kind: value for kind, value in self if value is not None}
        if len(given) != 1:
            raise ValueError("give exactly one of choice, uniform, loguniform, int and quniform")
        ((kind, value),) = given.items()
        if kind != "choice" and value[0] >= value[1]:
            raise ValueError(f"the range {list(value[:2])} is empty: its low end comes first")
        if kind == "loguniform" and value[0] <= 0:
            raise ValueError("loguniform needs a low end above 0")
        if self.quniform is not None and not 0 < self.quniform[2] <= self.quniform[1] - self.quniform[0]:
            raise ValueError("the step of quniform is above 0 and at most high − low")
        return self

    @property
    def is_logarithmic(self) -> bool:
        """Whether distances are of logarithms."""
        return self.loguniform is not None

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values at both ends, or all choices."""
        if self.choice is not None:
            return self.choice
        given = self.uniform or self.loguniform or self.integer or self.quniform
        return () if given is None else given[:2]

    @property
    def samples(self) -> tuple[Any, ...]:
        """Where these fit a key, all values do: all choices, or the ends and, unless `int`, a fraction between them."""
        if self.quniform is not None:
            grid = self.grid or ()
            return (grid[0], grid[-1], grid[1])
        within = tuple(low + (high - low) / math.pi for low, high in filter(None, (self.uniform, self.loguniform)))
        return (*self.ends, *within)

    @property
    def grid(self) -> tuple[Any, ...] | None:
        """All values; None for a continuum."""
        if self.choice is not None:
            return self.choice
        if self.integer is not None:
            return tuple(range(self.integer[0], self.integer[1] + 1))
        if self.quniform is not None:
            low, high, step = self.quniform
            return tuple(_number(low + i * step) for i in range(math.floor((high - low) / step + 1e-9) + 1))
        return None

    def distribution(self) -> distributions.BaseDistribution:
        """As Optuna has it. (A choice is known to it by its place, since it may be a list.)"""
        if self.choice is not None:
            return distributions.CategoricalDistribution(range(len(self.choice)))
        if self.integer is not None:
            return distributions.IntDistribution(*self.integer)
        if self.quniform is not None:
            return distributions.IntDistribution(0, len(self.grid or ()) - 1)
        low, high = self.uniform or self.loguniform or (0.0, 0.0)
        return distributions.FloatDistribution(low, high, log=self.is_logarithmic)

    def decode(self, internal: Any) -> Any:
        """The key's value from Optuna's."""
        if self.choice is not None or self.quniform is not None:
            return (self.grid or ())[internal]
        return internal

    def encode(self, value: Any) -> Any:
        """Optuna's value from the key's."""
        if self.choice is not None:
            return [json.dumps(known) for known in self.choice].index(json.dumps(value))
        if self.quniform is not None:
            return round((value - self.quniform[0]) / self.quniform[2])
        return value


Space = Mapping[str, Dimension]


def checked_space(space: Space, base: RunConfig) -> dict[str, Dimension]:
    """The space, of which every key is one of a run's, and takes every value of its dimension.

    Choices are as a run reads them: YAML has 1e-3 as text, beside 0.01 as a number.

    Raises:
        UserError: names the key, and the value.
    """
    if not space:
        raise UserError("space: is empty; name at least one key of a run's configuration")
    checked = {}
    for key, dimension in space.items():
        if key in NOT_SEARCHED:
            raise UserError(f"space.{key}: is the same in all trials; take it out")
        read = tuple(_read(key, value, base) for value in dimension.samples)
        checked[key] = dimension if dimension.choice is None else Dimension(choice=read)
    return checked


def _read(key: str, value: Any, base: RunConfig) -> Any:
    try:
        # What does not fit with another key may fit with another value of that: trials are checked whole.
        config = with_values(base, {key: value}, together=False)
    except UserError as problem:
        raise UserError(f"space: {problem}") from None
    return value if config is base else reduce(getitem, key.split("."), as_values(config))


def grid_of(space: Space) -> list[Parameters]:
    """All combinations of a space's values; the last key runs fastest.

    Raises:
        UserError: a dimension is a continuum.
    """
    values = []
    for key, dimension in space.items():
        if dimension.grid is None:
            raise UserError(f"space.{key}: a grid needs choice, int or quniform")
        values.append(dimension.grid)
    return [dict(zip(space, combination, strict=True)) for combination in product(*values)]


def _number(value: float) -> float | int:
    """Whole numbers as such: keys of integers take no 100.0; steps of 0.1 without their rounding errors."""
    rounded = round(value, 12)
    return int(rounded) if rounded == int(rounded) else rounded
