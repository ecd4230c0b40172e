"""Configurations: frozen, typed, read from YAML with `key=value` overrides; what does not fit names its key."""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args

import pydantic
import yaml
from pydantic.fields import FieldInfo

from infodcl_dist.base.errors import UserError

AnyConfig = TypeVar("AnyConfig", bound="Config")


# A date that is none is a ValueError, as is text that is not UTF-8; a thousand brackets are too deep for the parser.
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)


class Config(pydantic.BaseModel):
    """A section of a configuration. Each field is declared with a default, its bounds and a description."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), validate_default=True
    )

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, field: pydantic.ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is no value for it")
        return value

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _home(cls, value: Any, field: pydantic.ValidationInfo) -> Any:
        """A shell leaves `~` as it is behind `key=`, and in a file nobody else looks at it."""
        is_path = isinstance(value, str) and _is_path(cls.model_fields[str(field.field_name)].annotation, value)
        return os.path.expanduser(value) if is_path else value


def load_config(kind: type[AnyConfig], file: Path | None, overrides: Iterable[str] = ()) -> AnyConfig:
    """Reads `file` (YAML), applies `section.key=value` overrides (values in YAML), and checks every key and value.

    Raises:
        UserError: one line naming the file or override, the key, and what would be accepted.
    """
    values = read_yaml(file) if file is not None else {}
    overridden = [_apply(override, values, kind) for override in overrides]
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        path = _path_of(problem)
        is_of_an_override = any(path == key or path.startswith(f"{key}.") for key in overridden)
        in_file = file is not None and not is_of_an_override and _explain(kind, path, problem) in _faults(kind, file)
        raise UserError(f"{file if in_file else 'command line'}: {_explain(kind, path, problem)}") from None


def config_of_options(kind: type[AnyConfig], options: Mapping[str, Any]) -> AnyConfig:
    """The configuration of a command's options, where `--some-name` is the key `some_name`.

    Args:
        kind: what is made.
        options: values by key, as they were given.

    Raises:
        UserError: a value does not fit; names the option.
    """
    try:
        return kind.model_validate(options)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        option = "".join(f"--{name}".replace("_", "-") for name in problem["loc"][:1])
        raise UserError(_explain(kind, option, problem)) from None


def _faults(kind: type[Config], file: Path) -> list[str]:
    """What does not fit of a file alone: a fault between keys may come from one that was overridden."""
    try:
        kind.model_validate(read_yaml(file))
    except pydantic.ValidationError as error:
        return [_explain(kind, _path_of(problem), problem) for problem in error.errors()]
    return []


def as_values(config: Config) -> dict[str, Any]:
    """The whole configuration as plain values, under the keys that a user writes."""
    return config.model_dump(mode="json", by_alias=True)


def with_values(config: AnyConfig, values: Mapping[str, Any], *, together: bool = True) -> AnyConfig:
    """The configuration with other values for some keys (`section.key`), checked.

    Args:
        config: the configuration.
        values: by key.
        together: whether it must also fit as a whole; otherwise faults that lie between keys are let pass, and the
            configuration comes back as it was.

    Raises:
        UserError: an unknown key or a value that does not fit, named.
    """
    nested = as_values(config)
    for key, value in values.items():
        _put(nested, key, value)
    try:
        return type(config).model_validate(nested)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        path = _path_of(problem)
        is_of_a_key = problem["type"] == "extra_forbidden" or any(f"{path}.".startswith(f"{key}.") for key in values)
        if not together and not is_of_a_key:
            return config
        raise UserError(_explain(type(config), path, problem)) from None


def changed_keys(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys (`section.key`) of `as_values` that one of both has alone, or with another value; in the order of `new`."""
    for name in {**new, **old}:
        key, value, before = prefix + name, new.get(name), old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            yield from changed_keys(value, before, f"{key}.")
        elif value != before:
            yield key


def fields_of(kind: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key as a user writes it (`section.key`), and how it is declared."""
    for name, field in kind.model_fields.items():
        if _is_section(field.annotation):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + (field.alias or name), field


def dump_config(config: Config) -> str:
    """The whole configuration as YAML that `load_config` takes back."""
    return yaml.safe_dump(as_values(config), sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        UserError: it cannot be read, is no YAML, gives a key twice, or holds no sections.
    """
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        # One rule for relative paths, those that stand in a file too.
        searched = "" if file.is_absolute() else f" and is looked for in the working directory, {Path.cwd()}"
        raise UserError(f"{file}: cannot be read ({error.strerror}){searched}; check where it lies") from None
    except NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise UserError(f"{place}: is no valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold `section:` keys, not a {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    """YAML, where a key that is given twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key is no word", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _apply(override: str, values: dict[str, Any], kind: type[Config]) -> str:
    """Sets the override's value, and returns its key."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"{override}: is no override; write section.key=value")
    try:
        # A path may look like a number, a date or a truth value.
        value = text if _is_path(_annotation(kind, key), text) else yaml.load(text, _Loader)
    except NO_YAML:
        raise UserError(f"{key}: the value {text!r} is no valid YAML") from None
    _put(values, key, value)
    return key


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value of `section.key`, in sections that are made where they are missing."""
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{key}: {section} is a value, not a section")
    values[name] = value


def _path_of(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _explain(kind: type[Config], path: str, problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        keys = set(_known_keys(kind))
        known = sorted(keys | {key.partition(".")[0] for key in keys})
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(keys))}"
        return f"{path}: unknown key; {hint}"
    if problem["type"] == "missing":
        # A whole section can be missing: name the first key inside it.
        key = next((known for known in _known_keys(kind) if known.startswith(f"{path}.")), path)
        return f"{key}: must be given; add {key}=… to the command or to the file"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        return f"{path}: {message}" if path else message
    message = _remedy(kind, path, problem) or problem["msg"][0].lower() + problem["msg"][1:]
    return f"{path}: {problem['input']!r} does not fit: {message}"


def _remedy(kind: type[Config], path: str, problem: Any) -> str | None:
    """What to write where a section or a list has one value; None for any other problem."""
    annotation, value = _annotation(kind, path), problem["input"]
    if problem["type"] == "model_type" and _is_section(annotation):
        return f"it is a section; give {', '.join(f'{path}.{key}=…' for key in _known_keys(annotation))}"
    if problem["type"] == "tuple_type" and get_args(annotation)[-1:] == (...,):
        return f"it is a list; write [{value if isinstance(value, str | int | float) else '…'}]"
    return None


def _annotation(kind: type[Config], key: str) -> Any:
    """The declared type of a key; None for one that is not known."""
    name, _, rest = key.partition(".")
    field = {field.alias or own: field for own, field in kind.model_fields.items()}.get(name)
    if field is None or not rest:
        return field and field.annotation
    return _annotation(field.annotation, rest) if _is_section(field.annotation) else None


def _is_section(annotation: Any) -> TypeGuard[type[Config]]:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def _is_path(annotation: Any, text: str) -> bool:
    """Whether a value is to be taken as a path; where a path may be left out, `null` still says so."""
    return annotation is Path or (annotation == Path | None and text not in ("", "~", "null"))


def _known_keys(kind: type[Config]) -> Iterator[str]:
    return (key for key, _ in fields_of(kind))
