"""`infodcl-dist config`: the reference of all configuration keys, from their own declarations."""

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import click

from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.train import config_option

if TYPE_CHECKING:
    from infodcl_dist.base.config import Config

REQUIRED = "(must be given)"


class Key(NamedTuple):
    """A key as it is printed."""

    name: str
    value: str  # its default, or what a run would have
    description: str

    @property
    def section(self) -> str:
        """What stands before the first dot; nothing for a key without a section."""
        return self.name.rpartition(".")[0].partition(".")[0]

    def is_asked_for(self, words: Sequence[str]) -> bool:
        """Whether its name holds one of the words, or its description does as a word; without words, every key is."""
        told = re.findall(r"\w+", self.description.lower())
        return not words or any(word.lower() in self.name or word.lower() in told for word in words)


@click.command()
@config_option
@click.option("--tune", "of_sweep", is_flag=True, help="the keys of a sweep, not of a run")
@click.argument("arguments", nargs=-1, metavar="[WORD|KEY=VALUE]...")
def config(config_file: Path | None, of_sweep: bool, arguments: tuple[str, ...]) -> None:
    """Every configuration key, its default, what it means.

    Of WORDs, those keys whose name holds one, or whose meaning does as a word of its own.
    With --config or KEY=VALUE the values that a run would have, checked as `train` does.
    """
    kind = _kind(of_sweep)
    overrides = [argument for argument in arguments if "=" in argument]
    words = [argument for argument in arguments if "=" not in argument]
    values = _values(kind, config_file, overrides) if config_file is not None or overrides else None
    asked = [key for key in _keys(kind, values) if key.is_asked_for(words)]
    if not asked:
        raise UserError(f"{', '.join(words)}: in no configuration key's name or meaning; without it all are printed")
    name_width, value_width = (max(len(key[column]) for key in asked) for column in (0, 1))
    for number, (_, section) in enumerate(groupby(asked, lambda key: key.section)):
        if number > 0:
            click.echo()
        for key in section:
            if sys.stdout.isatty():
                click.echo(f"{key.name}  {key.value}")
                click.echo(textwrap.indent(textwrap.fill(key.description, 90), "    "))
            else:  # a line a key, to search in
                click.echo(f"{key.name:{name_width}}  {key.value:{min(value_width, 24)}}  {key.description}")


def _kind(of_sweep: bool) -> "type[Config]":
    if of_sweep:
        from infodcl_dist.cli.tune import check_packages

        check_packages()
        from infodcl_dist.tune.config import TuneConfig

        return TuneConfig
    from infodcl_dist.recipe.config import RunConfig

    return RunConfig


def _values(kind: "type[Config]", file: Path | None, overrides: list[str]) -> dict[str, Any]:
    from infodcl_dist.base.config import as_values, load_config

    return as_values(load_config(kind, file, overrides))


def _keys(kind: "type[Config]", values: dict[str, Any] | None) -> Iterator[Key]:
    """All keys, with their defaults, or with `values` by section."""
    from pydantic_core import to_jsonable_python

    from infodcl_dist.base.config import fields_of

    for name, field in fields_of(kind):
        if values is not None:
            value = _as_yaml(reduce(getitem, name.split("."), values))
        else:
            value = REQUIRED if field.is_required() else _as_yaml(to_jsonable_python(field.default))
        description = field.description or ""
        choices = _choices(field.annotation)
        if not all(choice in description for choice in choices):
            description += f" (one of {', '.join(choices)})"
        yield Key(name, value, description)


def _as_yaml(value: Any) -> str:
    """On one line, as an override has it."""
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=1_000_000)
    return text.removesuffix("...\n").strip()


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words that a key, or each element of its list, may be."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return _choices(get_args(annotation)[0]) if get_origin(annotation) is tuple else ()
