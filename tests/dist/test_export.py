"""Exported embeddings over ranks: arrays, Parquet, and a FAISS index with its measured recall."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import writing
from infodcl_dist.inference import approximate, export
from infodcl_dist.inference.approximate import choose_index, export_index, sample_rows, shared
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.export import export_embeddings, export_parquet
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_span

USERS, ITEMS, WIDTH, AT = 300, 2_000, 16, 10


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Items in clusters, as trained ones are: of pure noise inverted lists find little."""
    draw = np.random.default_rng(4)
    centres = draw.normal(size=(20, WIDTH))
    users, items = (centres[draw.integers(0, 20, n)] + 0.3 * draw.normal(size=(n, WIDTH)) for n in (USERS, ITEMS))
    return users.astype(np.float32), items.astype(np.float32)


def embeddings(group: Group) -> Embeddings:
    columns = slice(*column_span(WIDTH, group.rank, group.world_size))
    users, items = (torch.from_numpy(side[:, columns].copy()) for side in rows())
    return Embeddings(users, items, WIDTH)


def write(group: Group, folder: Path) -> None:
    ids = {"users": pa.array([f"u{i}" for i in range(USERS)]), "items": pa.array(np.arange(ITEMS) * 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "TILE_ROWS", 128)  # several tiles, the last shorter
        export_embeddings(embeddings(group), folder)
        export_parquet(embeddings(group), folder, ids)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_arrays_and_parquet_hold_the_rows(ranks, tmp_path, world_size):
    ranks(world_size, write, tmp_path)
    for name, expected, ids in zip(("users", "items"), rows(), (USERS, ITEMS), strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.column_names == ["index", "id", "embedding"]
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
        np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), expected)
        assert table["index"].to_pylist() == list(range(ids))
        assert table["id"][7].as_py() == ("u7" if name == "users" else 21)


def write_index(group: Group, folder: Path, graph_items: int) -> dict | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate, "GRAPH_ITEMS", graph_items)
        patch.setattr(approximate, "SAMPLED_USERS", 50)
        patch.setattr(export, "TILE_ROWS", 128)
        report = export_index(embeddings(group), folder, AT, group)
    return report and vars(report)


@pytest.mark.parametrize(("graph_items", "kind"), [(ITEMS, "HNSWFlat"), (ITEMS - 1, "IVFFlat")])
def test_an_index_and_its_recall(ranks, tmp_path, graph_items, kind):
    faiss = pytest.importorskip("faiss")
    for world_size in (1, 2):
        first, *others = ranks(world_size, write_index, tmp_path, graph_items)
        assert others == [None] * (world_size - 1)
        report = json.loads((tmp_path / "items.faiss.json").read_text())
        assert report == first
        assert (report["kind"], report["items"], report["sampled_users"]) == (kind, ITEMS, 50)
        index = faiss.read_index(str(tmp_path / "items.faiss"))
        assert index.ntotal == ITEMS
        assert index.metric_type == faiss.METRIC_INNER_PRODUCT
        users, items = rows()
        sample = users[np.linspace(0, USERS - 1, 50).astype(int)]
        exact = np.argsort(-(sample @ items.T), axis=1)[:, :AT]
        _, found = index.search(sample, AT)
        share = np.mean([len(set(a) & set(b)) / AT for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
        assert report["recall"] == pytest.approx(share, abs=1e-3)
        assert report["recall"] > 0.5


def write_to_a_full_disk(group: Group, folder: Path) -> None:
    refused = pytest.raises(UserError, match=r"/out: cannot be written \(.*No space left on device.*\)")
    with pytest.MonkeyPatch.context() as patch, refused, writing(folder / "out"):
        patch.setattr(approximate, "INDEX_FILE", "/dev/full")
        export_index(embeddings(group), folder, AT, group)


def test_a_full_disk_is_one_line(ranks, tmp_path):
    pytest.importorskip("faiss")
    ranks(1, write_to_a_full_disk, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_choice_and_its_measures():
    assert choose_index(200_000)[0] == "HNSWFlat"
    assert choose_index(1_000_000) == ("IVFFlat", {"lists": 4000, "probes": 250, "training_rows": 256_000})
    assert sample_rows(10, 3).tolist() == [0, 4, 9]
    assert sample_rows(3, 10).tolist() == [0, 1, 2]
    assert shared(np.array([[1, 2], [3, -1]]), np.array([[2, 5], [4, 3]])) == 0.5


def test_the_share_takes_memory_for_its_lists_alone():
    lists = np.tile(np.arange(2_000), (4, 1))
    tracemalloc.start()
    try:
        assert shared(lists, lists + 500) == 0.75
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 2_000 * 100  # every pair of the lists' places would be 16 MB
