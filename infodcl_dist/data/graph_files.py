"""Graphs that a user brings beside the interactions: items with attributes, and users with each other.

Legend: M users, N items, T triples, A attributes (a relation with its tail), H heads.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from infodcl_dist.base.console import log
from infodcl_dist.base.errors import UserError
from infodcl_dist.data.columns import Columns
from infodcl_dist.data.delimited import DIALECTS, read_header
from infodcl_dist.data.parquet_table import open_parquet
from infodcl_dist.data.readers import detect_format, is_data, read_interactions
from infodcl_dist.data.rows import CompressedRows, index_type
from infodcl_dist.data.triples import Triples, read_triples

LINK = Columns(user="item_id:token", item="entity_id:token", rating="", time="", have_options=False)


@dataclass(frozen=True)
class ItemGraph:
    """What each item is, as sets of attributes."""

    attributes_of_items: CompressedRows  # [N] rows
    attributes: pa.Table  # `index`, `relation` and `tail` of each of A


def read_item_graph(name: str, file: Path, item_ids: pa.Array) -> ItemGraph:
    """The attributes (relation, tail) of each item: of the triples whose head it is.

    A head is an item by its own id; in RecBole's form by the `.link` file beside it, where there is one.

    Args:
        name: of the channel, for the log.
        file: the triples.
        item_ids: the catalogue's ids [N].

    Raises:
        UserError: a file that cannot be read, or none of its heads is an item.
    """
    triples = read_triples(file)
    heads = triples.heads.dictionary
    link = file.with_suffix(".link")
    texts = item_ids.cast(pa.string())
    if triples.has_header and link.is_file():
        log.info("%s: items are found among its heads by %s", file, link)
        linked = read_interactions(link, "inter", LINK)
        ids, entities = (linked[role].chunk(0).dictionary_decode() for role in ("user", "item"))
        items, head = (_codes(known, of) for known, of in ((texts, ids), (heads, entities)))
    else:
        items, head = np.arange(len(texts)), _codes(heads, texts)
    both = (items >= 0) & (head >= 0)
    if not both.any():
        raise UserError(f"{file}: none of its heads is an item of the data; give triples whose heads are items")
    heads_of_items = _matrix(items[both], head[both], (len(texts), len(heads)))
    graph = _attributes(triples, heads_of_items)
    degrees = graph.attributes_of_items.degrees
    log.info(
        "graph %s: %s attributes of items, in %s pairs; %s of %s items have none",
        *(name, f"{graph.attributes.num_rows:,}", f"{int(degrees.sum()):,}"),
        *(f"{int((degrees == 0).sum()):,}", f"{len(texts):,}"),
    )
    return graph


def read_user_graph(file: Path, user_ids: pa.Array) -> CompressedRows:
    """Each user's neighbours: users that a line of the file names together with it, in either order. [M] rows.

    Args:
        file: pairs of the users' own ids, in one of `readers.FORMATS`; a table's first two columns.
        user_ids: the catalogue's ids [M].

    Raises:
        UserError: the file cannot be read, its first pair stands where a header should, or none of its pairs is of two
            users of the data.
    """
    format = detect_format(file)
    texts = user_ids.cast(pa.string())
    table = read_interactions(file, format, _first_two_columns(file, format, texts), is_guess=True)
    sides = []
    for role in ("user", "item"):
        column = table[role].chunk(0)
        sides.append(_codes(texts, column.dictionary.cast(pa.string()))[column.indices.to_numpy()])
    known = (sides[0] >= 0) & (sides[1] >= 0)
    kept = known & (sides[0] != sides[1])
    if not kept.any():
        raise UserError(f"{file}: no pair is of two users of the data; give pairs of the users' own ids")
    one_way = _matrix(sides[0][kept], sides[1][kept], (len(texts), len(texts)))
    rows = _compressed(one_way + one_way.T)
    log.info(
        "user graph: %s users have neighbours, %s on average; %s pairs with an unknown user and %s of a user with "
        "itself are left out",
        *(f"{int((rows.degrees > 0).sum()):,}", f"{rows.pair_count / int((rows.degrees > 0).sum()):.1f}"),
        *(f"{int((~known).sum()):,}", f"{int((known & ~kept).sum()):,}"),
    )
    return rows


def _first_two_columns(file: Path, format: str, users: pa.Array) -> Columns:
    """Of a format that names its columns; none of the others. `users`: the catalogue's ids as text [M]."""
    if format == "parquet":
        with open_parquet(file) as table:
            header = table.schema_arrow.names
    elif format in DIALECTS:
        header = read_header(file, DIALECTS[format])
    else:
        return Columns()
    if len(header) < 2:
        raise UserError(f"{file}: has {len(header)} column, not two of users; give pairs")
    # Ids that are words look like names of columns: two users side by side are a pair.
    if format in DIALECTS and (is_data(header[:2]) or (_codes(users, pa.array(header[:2])) >= 0).all()):
        raise UserError(
            f"{file}: begins with {', '.join(header)}, which is a pair and no header; name the columns above"
        )
    return Columns(user=header[0], item=header[1], rating="", time="")


def _attributes(triples: Triples, heads_of_items: sparse.csr_matrix) -> ItemGraph:
    """Gives each (relation, tail) of an item's heads a number, in the order of their texts' codes."""
    codes = {part: getattr(triples, part).indices.to_numpy() for part in ("heads", "relations", "tails")}
    is_used = np.zeros(len(triples.heads.dictionary), bool)
    is_used[heads_of_items.indices] = True
    used = is_used[codes["heads"]]
    tails = len(triples.tails.dictionary)
    keys, attribute = np.unique(
        codes["relations"][used].astype(np.int64) * tails + codes["tails"][used], return_inverse=True
    )
    of_heads = _matrix(codes["heads"][used], attribute, (len(is_used), len(keys)))
    table = pa.table(
        {
            "index": np.arange(len(keys), dtype=np.int32),
            "relation": triples.relations.dictionary.take(pa.array(keys // tails)),
            "tail": triples.tails.dictionary.take(pa.array(keys % tails)),
        }
    )
    return ItemGraph(_compressed(heads_of_items @ of_heads), table)


def _codes(known: pa.Array, texts: pa.Array) -> np.ndarray:
    """The index in `known` of each text, int64, -1 for one that is not there."""
    found: np.ndarray = pc.index_in(texts, value_set=known).fill_null(-1).to_numpy().astype(np.int64)
    return found


def _matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Pairs, perhaps doubled, as a sparse matrix."""
    return sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def _compressed(matrix: sparse.csr_matrix) -> CompressedRows:
    """Where a matrix of counts is not 0."""
    matrix.sort_indices()
    kind = index_type(matrix.nnz)
    return CompressedRows(matrix.indptr.astype(kind), matrix.indices.astype(kind))
