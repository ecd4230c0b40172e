"""`infodcl-dist config` prints every key once, with what it is worth and what it means."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infodcl_dist.base.config import Config
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.tune.config import TuneConfig


def declared(kind: type[Config], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from declared(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + (field.alias or name), field.description


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """What stands after each key; every line but those between sections is a key's."""
    assert run(infodcl_dist, ["config", *arguments]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    keys = dict(line.split(maxsplit=1) for line in lines)
    assert len(keys) == len(lines)
    return keys


@pytest.mark.parametrize(
    ("arguments", "kind", "at_least"), [([], RunConfig, 70), (["--tune"], TuneConfig, 17)], ids=["run", "sweep"]
)
def test_every_key_is_printed_once_with_its_description(
    arguments: list[str], kind: type[Config], at_least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = dict(declared(kind))
    assert len(keys) >= at_least
    found = printed(capsys, *arguments)
    assert found.keys() == keys.keys()
    for key, description in keys.items():
        assert description, f"{key} has no description"
        assert f"  {description}" in found[key]


def test_defaults_stand_as_an_override_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys)
    starts = {
        "data.path": "(must be given)  ",
        "model.channels": "[knowledge, social]  ",
        "init.from": "null  ",
        "run.overwrite": "false  ",
        "loss.temperature": "0.5  ",
    }
    for key, start in starts.items():
        assert found[key].startswith(start), found[key]
    assert found["ablation"].endswith("(one of spectral_rectification, contextual_reencoding, psnet, balance_loss)"), (
        "words that no description has"
    )
    assert "one of" not in found["model.name"].replace("(one of infodcl, lightgcn, mf)", "")


def test_a_run_s_values_stand_in_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("data: {path: /set}\nrun: {path: run}\nmodel: {dim: 32, channels: [image]}\n")
    found = printed(capsys, "--config", str(tmp_path / "run.yaml"), "loss.bpr=0.25", "init.from=/earlier")
    starts = {"data.path": "/set ", "model.dim": "32 ", "model.channels": "[image] ", "loss.bpr": "0.25 "}
    for key, start in (starts | {"init.from": "/earlier ", "model.timesteps": "200 "}).items():
        assert found[key].startswith(start), found[key]
    assert run(infodcl_dist, ["config", "--config", str(tmp_path / "run.yaml"), "model.dim=0"]) == 2
    assert "model.dim: 0 does not fit" in capsys.readouterr().err


def test_words_choose_among_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    every = dict(declared(RunConfig))
    assert printed(capsys, "checkpoint.").keys() == {key for key in every if key.startswith("checkpoint.")}
    found = printed(capsys, "deepspeed", "init")
    assert {"init.from", "dense.zero_stage"} <= found.keys()
    assert len(found) < 6, "a word of the description is a whole one"
    assert run(infodcl_dist, ["config", "nonesuch"]) == 2
    assert "nonesuch: in no configuration key" in capsys.readouterr().err
