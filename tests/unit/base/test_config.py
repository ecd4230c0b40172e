"""A configuration that does not fit names its key, and what would."""

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from infodcl_dist.base.config import Config, changed_keys, dump_config, load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.recipe.config import RunConfig


class Inner(Config):
    rank: int | None = Field(default=None, ge=1)


class Part(Config):
    size: int = Field(default=8, ge=1)
    rate: float = Field(default=0.1, gt=0)
    kind: Literal["plain", "fancy"] = "plain"
    names: tuple[str, ...] = ("a", "b")
    inner: Inner = Inner()


class Whole(Config):
    place: Path = Path("here")
    part: Part = Part()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def load(*overrides: str) -> Whole:
    return load_config(Whole, None, overrides)


def complaint(file: Path | None = None, *overrides: str) -> str:
    """The error's one line."""
    with pytest.raises(UserError) as caught:
        load_config(Whole, file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("part.sizes=3", "part.sizes: unknown key; did you mean part.size?"),
        ("part.inner.rnk=3", "part.inner.rnk: unknown key; did you mean part.inner.rank?"),
        ("part.size=many", "part.size: 'many' does not fit: input should be a valid integer"),
        ("part.size=2.5", "part.size: 2.5 does not fit"),
        ("part.size=0", "part.size: 0 does not fit: input should be greater than or equal to 1"),
        ("part.rate=0", "part.rate: 0 does not fit: input should be greater than 0"),
        ("part.rate=.nan", "part.rate: nan does not fit: input should be a finite number"),
        ("part.rate=.inf", "part.rate: inf does not fit: input should be a finite number"),
        ("part.rate=null", "part.rate: None does not fit"),
        ("part.kind=other", "part.kind: 'other' does not fit: input should be 'plain' or 'fancy'"),
        ("part.names=a", "part.names: 'a' does not fit: it is a list; write [a]"),
        ("part.names=2", "part.names: 2 does not fit: it is a list; write [2]"),
        ("part.names=null", "part.names: None does not fit: it is a list; write […]"),
        ("part.names=[a, 3]", "part.names.1: 3 does not fit: input should be a valid string"),
        ("part.inner.rank=0", "part.inner.rank: 0 does not fit"),
        ("part.inner=3", "part.inner: 3 does not fit: it is a section; give part.inner.rank=…"),
        ("part=3", "part: 3 does not fit: it is a section; give part.size=…, part.rate=…, "),
        ("part.size.deep=3", "part.size"),
    ],
)
def test_a_wrong_override_names_its_key(override: str, expected: str) -> None:
    assert complaint(None, override).startswith(f"command line: {expected}")


def test_an_unknown_key_far_from_all_others_lists_them() -> None:
    message = complaint(None, "zzzzzz=3")
    for key in ("place", "part.size", "part.rate", "part.kind", "part.names", "part.inner.rank"):
        assert key in message


@pytest.mark.parametrize("override", ["no-equals-sign", "=3", ""])
def test_what_is_no_override_is_said(override: str) -> None:
    assert complaint(None, override) == f"{override}: is no override; write section.key=value"


def test_a_value_that_is_no_yaml_is_named() -> None:
    for text in ("[a", "2020-13-45", "{[a]: 1}"):
        assert complaint(None, f"part.names={text}") == f"part.names: the value '{text}' is no valid YAML"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("part:\n  sizes: 3\n", ": part.sizes: unknown key; did you mean part.size?"),
        ("part:\n  size: 0\n", ": part.size: 0 does not fit"),
        ("part:\n  size: 3\n   rate: 1\n", ":3: is no valid YAML"),
        ("part: [1, 2\n", ":2: is no valid YAML"),
        ("part: 2020-13-45\n", ": is no valid YAML (month must be"),
        ("part:\n  ? [a]\n  : 1\n", ":2: is no valid YAML (a key is no word)"),
        ("part: " + "[" * 2000 + "\n", ": is no valid YAML"),
        ("- part\n", ": must hold `section:` keys, not a list"),
        ("part\n", ": must hold `section:` keys, not a str"),
        ("part: !!python/object:os.system {}\n", ":1: is no valid YAML"),
        ("1: 2\n", ": 1: "),
        ("part:\n", ": part: None does not fit"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_or_key(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    assert complaint(file).startswith(f"{file}{expected}")


def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    assert complaint(file) == f"{file}: cannot be read (No such file or directory); check where it lies"
    assert complaint(Path("nowhere/run.yaml")) == (
        "nowhere/run.yaml: cannot be read (No such file or directory) and is looked for in the working directory, "
        f"{Path.cwd()}; check where it lies"
    )
    assert complaint(tmp_path).startswith(f"{tmp_path}: cannot be read (Is a directory)")
    file.write_bytes(b"\xff\xfe\xfa")
    assert complaint(file).startswith(f"{file}: is no valid YAML")


def test_the_place_at_fault_is_named(file: Path) -> None:
    file.write_text("part: {size: 0}\n")
    assert complaint(file, "part.rate=0.5").startswith(f"{file}: part.size")
    file.write_text("part: {rate: 0.5}\n")
    assert complaint(file, "part.size=0").startswith("command line: part.size")


def test_a_fault_between_keys_is_of_whoever_brings_it(file: Path) -> None:
    file.write_text("data: {path: set}\nrun: {path: run}\nmodel: {channels: [knowledge]}\n")
    faults = {
        "model.channels=[a,a]": "model: channels names one channel twice",
        "model.dim=33 model.psnet.reencoder=transformer": "model: psnet.reencoder",
        "evaluation.cutoffs=[10]": "evaluation.cutoffs must contain 20",
    }
    for overrides, fault in faults.items():
        with pytest.raises(UserError, match=f"^command line: {re.escape(fault)}"):
            load_config(RunConfig, file, overrides.split())
    file.write_text("data: {path: set}\nrun: {path: run}\nevaluation: {cutoffs: [10]}\n")
    with pytest.raises(UserError, match=f"^{file}: evaluation.cutoffs must contain 20"):
        load_config(RunConfig, file, ["model.dim=32"])


def test_overrides_win_over_the_file_and_the_last_over_the_first(file: Path) -> None:
    file.write_text("place: there\npart: {size: 3, rate: 0.5}\n")
    loaded = load_config(Whole, file, ["part.size=4", "part.size=5"])
    assert loaded == Whole(place=Path("there"), part=Part(size=5, rate=0.5))
    file.write_text("")
    assert load_config(Whole, file) == Whole()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("part.size=3", Part(size=3)),
        ("part.inner.rank=3", Part(inner=Inner(rank=3))),
        ("part.inner.rank=null", Part()),
        ("part.names=[]", Part(names=())),
        ("part.names=[x, y]", Part(names=("x", "y"))),
        ("part.rate=1e-3", Part(rate=0.001)),  # YAML 1.1 reads it as a string
        ("part.rate=1.0e-3", Part(rate=0.001)),
        ("part.rate=5E-05", Part(rate=5e-5)),
        ("part.rate=2", Part(rate=2.0)),
        ("part={size: 4, inner: {rank: 2}}", Part(size=4, inner=Inner(rank=2))),
    ],
)
def test_values_are_read_as_yaml(override: str, expected: Part) -> None:
    assert load(override).part == expected


def test_a_home_is_found_behind_a_key_and_in_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file.write_text("place: ~/data\npart: {names: [~/a]}\n")
    found = load_config(Whole, file)
    assert (found.place, found.part.names) == (Path("/home/me/data"), ("~/a",))
    assert [load(f"place={text}").place for text in ("~", "~/x", "a/~")] == [
        Path("/home/me"),
        Path("/home/me/x"),
        Path("a/~"),
    ]


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load("place=runs/rate=3").place == Path("runs/rate=3")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Whole().part.size = 3  # type: ignore[misc]


def test_dumped_and_loaded_again_it_is_equal(file: Path) -> None:
    overrides = ["part.rate=1e-7", "part.names=[ü, 'on', '12', '']", "part.inner.rank=2", "place=some/where"]
    loaded = load(*overrides)
    file.write_text(dump_config(loaded), encoding="utf-8")
    assert load_config(Whole, file) == loaded
    assert loaded != Whole()


# The configuration of a run, which these rules are for.

NEEDED = ["data.path=set", "run.path=run"]


def run_complaint(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(RunConfig, None, [*NEEDED, *overrides])
    return str(caught.value)


def test_a_run_needs_its_paths() -> None:
    with pytest.raises(UserError, match=r"^command line: data\.path: must be given; add data\.path=…"):
        load_config(RunConfig, None)
    with pytest.raises(UserError, match=r"run\.path: must be given"):
        load_config(RunConfig, None, ["data.path=set"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.channels=[knowledge, knowledge]", "channels names one channel twice"),
        ("model.channels=[]", "channels is empty"),
        ("evaluation.cutoffs=[10, 50]", "evaluation.cutoffs must contain 20"),
        ("evaluation.cutoffs=[]", "evaluation.cutoffs: [] does not fit"),
        ("init=runs/x", "init: 'runs/x' does not fit: it is a section; give init.from=…"),
        ("ablation=psnet", "ablation: 'psnet' does not fit: it is a list; write [psnet]"),
        ("ablation=[everything]", "ablation.0: 'everything' does not fit: input should be 'spectral_rectification'"),
        ("train.epoch=3", "train.epoch: unknown key; did you mean train.epochs?"),
        ("train.learning_rate=2", "train.learning_rate: 2 does not fit"),
        ("model.psnet.rank=0", "model.psnet.rank: 0 does not fit"),
    ],
)
def test_a_run_that_cannot_be_is_refused(override: str, expected: str) -> None:
    assert expected in run_complaint(override)


@pytest.mark.parametrize("cutoff", [0, -5])
def test_a_cutoff_below_one_is_refused(cutoff: int) -> None:
    assert "evaluation.cutoffs" in run_complaint(f"evaluation.cutoffs=[20, {cutoff}]")


@pytest.mark.parametrize("name", ["123", "2026-11-23", "on"])
def test_a_folder_may_have_any_name(name: str) -> None:
    assert load_config(RunConfig, None, ["data.path=set", f"run.path={name}"]).run.path == Path(name)


def test_a_key_given_twice_is_refused(file: Path) -> None:
    file.write_text("part: {size: 3}\npart: {rate: 0.5}\n")
    assert complaint(file).startswith(f"{file}:2: ")


def test_an_unknown_section_suggests_a_section() -> None:
    assert re.search(r"did you mean train(\.epochs)?\?", run_complaint("trainn.epochs=3"))


def test_true_is_no_number() -> None:
    assert "train.epochs" in run_complaint("train.epochs=true")


def test_a_whole_run_comes_back_from_its_file(file: Path) -> None:
    overrides = ["model.channels=[knowledge, text]", "loss.balance=5e-5", "loss.reconstruction=0.25", "run.seed=7"]
    config = load_config(RunConfig, None, [*NEEDED, *overrides])
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(RunConfig, file) == config
    assert config.loss.balance == 5e-5
    derived = config.pretraining(Path("made"))
    file.write_text(dump_config(derived), encoding="utf-8")
    assert load_config(RunConfig, file) == derived
    assert derived.model.trained_channels == ()


def test_configurations_of_the_repository_load() -> None:
    files = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        assert isinstance(load_config(RunConfig, file), RunConfig)


def test_changed_keys_are_those_of_sections_and_of_either_side_alone() -> None:
    old = {"b": 1, "part": {"size": 8, "inner": {"rank": 1}}, "space": {"x": {"int": [0, 1]}}, "gone": 0}
    new = {"b": 2, "part": {"size": 8, "inner": {"rank": 2}}, "space": {"y": {"int": [0, 1]}}, "a": 0}
    assert list(changed_keys(new, old)) == ["b", "part.inner.rank", "space.y", "space.x", "a", "gone"]
    assert list(changed_keys(old, old)) == []
