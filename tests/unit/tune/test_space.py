from pathlib import Path

import pytest

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.tune.config import TuneConfig
from infodcl_dist.tune.space import Dimension, checked_space, grid_of

ROOT = Path(__file__).parents[3]
BASE = load_config(RunConfig, None, ["data.path=set", "run.path=run"])


def space(**dimensions: object) -> dict[str, Dimension]:
    return {key.replace("__", "."): Dimension.model_validate(value) for key, value in dimensions.items()}


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ({"choice": ["a", [1, 2], None]}, ("a", [1, 2], None)),
        ({"int": [1, 4]}, (1, 2, 3, 4)),
        ({"quniform": [100, 500, 200]}, (100, 300, 500)),
        ({"quniform": [0, 0.3, 0.1]}, (0, 0.1, 0.2, 0.3)),
        ({"uniform": [0, 1]}, None),
        ({"loguniform": [1e-6, 0.5]}, None),
    ],
)
def test_a_dimension_knows_its_values_and_encodes_them_both_ways(values: dict, grid: tuple | None) -> None:
    dimension = Dimension.model_validate(values)
    assert dimension.grid == grid
    for value in grid if grid is not None else (values.get("uniform") or values["loguniform"]):
        internal = dimension.encode(value)
        assert dimension.distribution()._contains(dimension.distribution().to_internal_repr(internal))
        assert dimension.decode(internal) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one"),
        ({"uniform": [0, 1], "int": [0, 1]}, "exactly one"),
        ({"uniform": [1, 0]}, "low end comes first"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"quniform": [0, 1, 2]}, "step"),
        ({"int": [0.5, 2]}, "integer"),
        ({"choice": []}, "at least 1 item"),
        ({"range": [0, 1]}, "Extra inputs"),
    ],
)
def test_a_dimension_that_cannot_be_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dimension.model_validate(values)


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        (
            {"train__learning_rat": {"uniform": [0, 1]}},
            r"^space: train\.learning_rat: unknown key; did you mean train\.",
        ),
        ({"train__learning_rate": {"uniform": [0.1, 2]}}, r"^space: train\.learning_rate: 2\.0 does not fit"),
        ({"model__gcn_layers": {"uniform": [0, 2.5]}}, r"^space: model\.gcn_layers: 2\.5 does not fit"),
        ({"model__name": {"choice": ["mf", "ncf"]}}, r"^space: model\.name: 'ncf' does not fit"),
        ({"trian__epochs": {"int": [1, 3]}}, r"^space: trian: unknown key; did you mean train\?"),
        ({"train__epochs": {"loguniform": [2, 16]}}, r"^space: train\.epochs: 6\.4\d+ does not fit"),
        ({"train__epochs": {"quniform": [2, 16, 0.5]}}, r"^space: train\.epochs: 2\.5 does not fit"),
        ({"run__path": {"choice": ["a", "b"]}}, r"^space\.run\.path: is the same in all trials"),
        ({}, r"^space: is empty"),
    ],
)
def test_a_space_that_does_not_fit_a_run_names_its_key(dimensions: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_space(space(**dimensions), BASE)


def test_values_that_need_each_other_are_left_to_the_trials() -> None:
    given = space(tables__kernel={"choice": ["dense", "fused"]}, loss__negatives={"choice": ["sampled"]})
    assert checked_space(given, BASE) == given


def test_choices_are_read_as_a_run_reads_them() -> None:
    given = space(train__learning_rate={"choice": ["1e-3", 0.01]}, model__channels={"choice": [["a"], ["b", "c"]]})
    found = checked_space(given, BASE)
    assert found["train.learning_rate"].choice == (0.001, 0.01)
    assert found["model.channels"] == given["model.channels"]


def test_a_grid_is_every_combination_and_needs_finite_dimensions() -> None:
    found = grid_of(space(model__gcn_layers={"int": [0, 2]}, model__channels={"choice": [["knowledge"], ["social"]]}))
    assert len(found) == 6
    assert found[1] == {"model.gcn_layers": 0, "model.channels": ["social"]}
    with pytest.raises(UserError, match=r"^space\.loss\.bpr: a grid needs"):
        grid_of(space(loss__bpr={"uniform": [0, 1]}))


def test_the_papers_space_and_the_sweeps_of_the_repository_fit_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    visited = 0
    for file in sorted(Path("configs/tune").glob("*.yaml")):
        if file.name != "paper-space.yaml":
            config = load_config(TuneConfig, file)
            base = config.base_run()
            assert base.model.name == "infodcl"
            assert checked_space(config.space, base) == config.space
            visited += 1
    assert visited >= 1
    paper = load_config(TuneConfig, None, ["path=study", "space=configs/tune/paper-space.yaml"]).space
    assert paper["train.learning_rate"].loguniform == (1e-6, 0.5)
    assert paper["model.gcn_layers"].integer == (0, 3)
    assert paper["loss.bpr"].uniform == (0, 1)
    assert paper["loss.regularization"].uniform == (0.001, 0.01)
