"""docs/data.md says of the data what the kept runs say."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def test_checksums_are_those_of_the_kept_runs() -> None:
    told = dict(re.findall(r"^\| `([\w-]+)` \|.*\| `([0-9a-f]{64})` \|$", PAGE, re.MULTILINE))
    kept = [json.loads(file.read_text()) for file in (ROOT / "benchmarks/runs").glob("*/*/*/dataset.json")]
    assert len(kept) > 50
    assert {data["name"]: data["checksum"] for data in kept} == told
    assert all(data["checksum"] == told[data["name"]] for data in kept)
