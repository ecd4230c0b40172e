"""Two hundred and more malformed inputs: each is refused with one line that names the place, or is read rightly."""

from pathlib import Path

import pytest
from malformed_files import all_cases
from malformed_text import Case

from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.data.dataset import open_dataset
from infodcl_dist.data.splits import SPLIT_NAMES

CASES = all_cases(seed=4)


def pairs_of(folder: Path) -> frozenset[tuple[str, str]]:
    """All splits' pairs by the user's own ids, as text."""
    dataset = open_dataset(folder)
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    found = [
        (str(users[user]), str(items[item]))
        for split in SPLIT_NAMES
        for user, item in zip(*dataset.items_of_users(split).pairs(), strict=True)
    ]
    assert len(set(found)) == len(found)
    return frozenset(found)


def test_there_are_two_hundred_and_the_seed_decides() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 200
    assert sum(case.pairs is None for case in CASES) >= 150
    assert all_cases(seed=4) == CASES != all_cases(seed=5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, content in case.files.items():
        (source / name).mkdir() if name.endswith("/") else (source / name).write_bytes(content)
    status = run(infodcl_dist, ["prepare", str(source / case.source), "--out", str(out), *case.arguments])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    if case.pairs is not None:
        assert (status, errors) == (0, [])
        assert pairs_of(out) == case.pairs
        return
    assert status == 2
    (line,) = errors
    place = f"error: {source}/{case.at}" if case.at else f"error: {source}"
    assert line.startswith(place)
    assert not place[-1].isdigit() or line[len(place)] == ":"  # `file:1` is not the place `file:12`
    assert case.words in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
