"""Real interaction data, where they lie beside the project."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import check_pairs, open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare

DATA = Path(__file__).parents[4] / "shared" / "data"
PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")

# users, items, then pairs of train, valid, test
SIZES = {
    "office": (4905, 2420, 40877, 5880, 6501),
    "baby": (19445, 7050, 118551, 21682, 20559),
    "ml-1m": (6040, 3706, 713374, 89179, 197656),  # 802,553 train pairs come; a ninth of each user's is drawn
    "tiktok": (9308, 6710, 59541, 3051, 6130),
}


def features_of(name: str) -> dict[str, Path]:
    return {kind: DATA / name / f"item_{kind}_feat.npy" for kind in ("image", "audio")} if name == "tiktok" else {}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(tmp_path: Path, name: str) -> None:
    prepare(DATA / name, tmp_path / name, PrepareOptions(item_features=features_of(name)))
    dataset = open_dataset(tmp_path / name)
    counts = dataset.manifest.counts
    assert (dataset.users, dataset.items, counts["train"], counts["valid"], counts["test"]) == SIZES[name]
    assert dataset.manifest.removed == {}
    if pa.__version__ == "26.0.1":  # Parquet files name the version that wrote them
        assert dataset.checksum in PAGE
    for file in dataset.manifest.source["files"].values():
        assert f"{file['sha256']}  {name}/{file['file']}" in PAGE
    check_pairs(dataset)
    for kind, file in features_of(name).items():
        np.testing.assert_array_equal(dataset.feature(kind), np.load(file))


def test_an_absurd_item_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "office"
    source.mkdir()
    for split in ("train", "valid", "test"):
        (source / f"{split}.txt").write_bytes((DATA / "office" / f"{split}.txt").read_bytes())
    with (source / "test.txt").open("a") as stream:
        stream.write("5 999999\n")
    with pytest.raises(UserError, match=r"test\.txt:6502: item 999999 never occurs in train"):
        prepare(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["office"]


def test_items_without_a_row_or_a_train_pair_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"valid\.txt:5: item 6704 never occurs in train"):
        prepare(DATA / "tiktok", tmp_path / "out")
