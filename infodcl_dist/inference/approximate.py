"""A FAISS index of the items, for approximate search by inner product, and how much of the exact result it finds.

N items, D width, Q sampled users, K list length.

Chosen by size. Up to `GRAPH_ITEMS` a graph (HNSW): no training, the quickest search at high recall, 4·(D + 2·32) bytes
an item. Beyond that inverted lists (IVF): 4·√N of them, as FAISS's guidelines say, trained on at most 64 rows a list,
of which a search visits 1/16; half of HNSW's memory at D = 64, and built sooner.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from infodcl_dist.base.console import is_rank_zero
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import write_json
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.export import tiles
from infodcl_dist.inference.ranking import rank_items, rows_of
from infodcl_dist.parallel.group import Group

GRAPH_ITEMS = 200_000
HNSW = {"neighbours": 32, "ef_construction": 200, "ef_search": 256}
ROWS_PER_LIST = 64
VISITED = 16  # a search visits the best of so many lists
SAMPLED_USERS = 1_000
INDEX_FILE, REPORT_FILE = "items.faiss", "items.faiss.json"


@dataclass(frozen=True)
class IndexReport:
    """What was built and what it is worth."""

    kind: str  # HNSWFlat or IVFFlat
    parameters: dict[str, int]
    items: int
    width: int
    at: int  # K
    recall: float  # share of the exact first K that the index's first K hold, mean over the sampled users
    sampled_users: int


def load_faiss() -> ModuleType:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError("--faiss: the package faiss-cpu is missing; pip install 'infodcl-dist[faiss]'") from None
    module: ModuleType = faiss
    return module


@torch.no_grad()
def export_index(embeddings: Embeddings, folder: Path, at: int, group: Group) -> IndexReport | None:
    """Writes `items.faiss`, whose ids are item indices, and `items.faiss.json`, an `IndexReport`.

    All ranks call it; rank 0 builds the index, which it holds in memory, and returns the report. Recall@`at` is
    measured on up to 1,000 users spread over all, without masks, against the exact ranking.

    Raises:
        OSError: on rank 0, the index cannot be written.
    """
    at = min(at, embeddings.item_count)
    kind, parameters = choose_index(embeddings.item_count)
    index = _build(embeddings, kind, parameters)
    sample = sample_rows(embeddings.user_count, SAMPLED_USERS)
    sides = tiles(embeddings.user_count, embeddings.user_tile, "sample users")
    queries = np.concatenate([_listed(sample, start, values) for start, values in sides])
    if index is None:
        queries = queries[:0]  # ranked on rank 0 alone; the others take part in the tiles
    nothing_seen = rows_of([], torch.arange(len(queries), device=group.device))
    exact, _ = rank_items(embeddings, torch.from_numpy(queries).to(group.device), seen=nothing_seen, k=at)
    if index is None:
        return None
    recall = shared(index.search(queries, at)[1], exact.cpu().numpy())
    report = IndexReport(kind, parameters, embeddings.item_count, embeddings.width, at, recall, len(queries))
    _write(index, folder / INDEX_FILE)
    write_json(folder / REPORT_FILE, asdict(report))
    return report


def choose_index(items: int) -> tuple[str, dict[str, int]]:
    """The kind of index for so many items, and its parameters."""
    if items <= GRAPH_ITEMS:
        return "HNSWFlat", dict(HNSW)
    lists = round(4 * items**0.5)
    return "IVFFlat", {"lists": lists, "probes": -(-lists // VISITED), "training_rows": ROWS_PER_LIST * lists}


def sample_rows(rows: int, count: int) -> np.ndarray:
    """`count` indices, or all, evenly spread over `rows`; ascending."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.int64))


def shared(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact items [Q, K] that are among the found ones [Q, K]."""
    return float(np.mean([np.isin(*lists).mean() for lists in zip(exact, found, strict=True)]))


def _write(index: Any, file: Path) -> None:
    try:
        load_faiss().write_index(index, str(file))
    except RuntimeError as error:  # FAISS has no other
        raise OSError(str(error).strip().rpartition(": ")[2]) from error


def _build(embeddings: Embeddings, kind: str, parameters: dict[str, int]) -> Any:
    """The index with all items, on rank 0. The tiles are collectives, so all ranks go through them."""
    index = None
    if kind == "HNSWFlat":
        if is_rank_zero():
            faiss = load_faiss()
            index = faiss.IndexHNSWFlat(embeddings.width, parameters["neighbours"], faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction, index.hnsw.efSearch = parameters["ef_construction"], parameters["ef_search"]
    else:
        wanted = sample_rows(embeddings.item_count, parameters["training_rows"])
        chosen = [
            _listed(wanted, start, values)
            for start, values in tiles(embeddings.item_count, embeddings.item_tile, "sample items")
        ]
        if is_rank_zero():
            faiss = load_faiss()
            quantizer = faiss.IndexFlatIP(embeddings.width)
            index = faiss.IndexIVFFlat(quantizer, embeddings.width, parameters["lists"], faiss.METRIC_INNER_PRODUCT)
            index.train(np.concatenate(chosen))
            index.nprobe = parameters["probes"]
    for _, values in tiles(embeddings.item_count, embeddings.item_tile, "index items"):
        if index is not None:
            index.add(values)
    return index


def _listed(wanted: np.ndarray, start: int, values: np.ndarray) -> np.ndarray:
    """The wanted rows of a tile whose first row is `start`; a copy, so that the tile can go."""
    return values[wanted[(wanted >= start) & (wanted < start + len(values))] - start]
