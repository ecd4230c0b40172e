"""Graphs of items and of users, from the files that a user has to the rows of the dataset folder."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Dataset, open_dataset
from infodcl_dist.data.prepare import PrepareOptions, prepare
from infodcl_dist.data.rows import CompressedRows
from infodcl_dist.data.sample import default_cache

TRIPLES = (
    "b\tmade by\tACME\na\tmade by\tACME\na\tkind\tpen\n\nnobody\tkind\tpen\na\tkind\tpen\nd\tkind\tink\nb\tkind\tACME\n"
)
ATTRIBUTES = {"a": {("made by", "ACME"), ("kind", "pen")}, "b": {("made by", "ACME"), ("kind", "ACME")}}
KG_HEADER = "relation_id:token\thead_id:token\ttail_id:token\n"


def source(folder: Path, users: list, items: list) -> Path:
    """Every user has every item in one of the splits."""
    folder.mkdir(exist_ok=True)
    for split, of in (("train", (0, 1)), ("valid", (2,)), ("test", (3,))):
        pairs = [(users[user], items[(user + shift) % 4]) for user in range(4) for shift in of]
        (folder / f"{split}.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    return folder


def made(tmp_path: Path, items: list | None = None, users: list | None = None, **options: object) -> Dataset:
    files = source(tmp_path / "in", users or ["p", "q", "r", "s"], items or ["a", "b", "c", "d"])
    prepare(files, tmp_path / "out", PrepareOptions(**options))  # type: ignore[arg-type]
    return open_dataset(tmp_path / "out")


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def sets(rows: CompressedRows) -> list[set[int]]:
    return [set(rows.indices[rows.offsets[row] : rows.offsets[row + 1]].tolist()) for row in range(len(rows))]


def attributes_of(dataset: Dataset, name: str) -> dict:
    """Each item's attributes in the user's own words, checked from both sides."""
    of_items, of_attributes = dataset.item_graph(name)
    assert of_items.indices.dtype == of_items.offsets.dtype == np.int32
    table = pq.read_table(dataset.path / "item-graphs" / name / "attributes.parquet").to_pydict()
    words = list(zip(table["relation"], table["tail"], strict=True))
    assert table["index"] == list(range(len(words)))
    for start, stop in pairwise(of_items.offsets):
        assert (np.diff(of_items.indices[start:stop]) > 0).all()
    turned = {(item, attribute) for attribute, items in enumerate(sets(of_attributes)) for item in items}
    assert turned == {(item, attribute) for item, found in enumerate(sets(of_items)) for attribute in found}
    ids = dataset.item_ids().to_pylist()
    return {ids[item]: {words[k] for k in found} for item, found in enumerate(sets(of_items))}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_triples_of_the_items_own_ids(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path, "facts.tsv", ("\ufeff" + TRIPLES).replace("\n", ending))
    dataset = made(tmp_path, item_graph={"facts": file})
    assert attributes_of(dataset, "facts") == ATTRIBUTES | {"c": set(), "d": {("kind", "ink")}}
    assert dataset.manifest.item_graphs["facts"].model_dump() == {"attributes": 4, "pairs": 5}
    assert "item-graphs/facts/of-items/indices.npy" in dataset.manifest.files


def test_integer_ids_are_heads_as_they_are_written(tmp_path: Path) -> None:
    file = write(tmp_path, "facts.tsv", "10\tkind\tpen\n010\tkind\tink\n30\tkind\tpen\n")
    found = attributes_of(made(tmp_path, [10, 20, 30, 40], item_graph={"facts": file}), "facts")
    assert found == {10: {("kind", "pen")}, 20: set(), 30: {("kind", "pen")}, 40: set()}


def test_recbole_links_items_to_entities_and_finds_columns_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, "x.kg", KG_HEADER + "kind\tm.1\tpen\nkind\tm.2\tink\nkind\tm.9\tpen\nby\tm.1\tm.2\n")
    links = "item_id:token\tentity_id:token\na\tm.1\nd\tm.2\nb\tm.2\nzz\tm.1\nc\tm.7\na\tm.2\n"
    write(tmp_path, "x.link", links.replace("\n", "\tsoon\n").replace("soon", "date:token", 1))
    two = {("kind", "pen"), ("by", "m.2")}
    ink = {("kind", "ink")}
    found = attributes_of(made(tmp_path, item_graph={"facts": file}), "facts")
    assert found == {"a": two | ink, "b": ink, "c": set(), "d": ink}


def test_a_link_without_its_columns_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "x.kg", KG_HEADER + "kind\tm.1\tpen\n")
    write(tmp_path, "x.link", "item_id:token\tentity:token\na\tm.1\n")
    with pytest.raises(UserError, match=r"x\.link: no column 'entity_id:token', which it must have; the columns are"):
        made(tmp_path, item_graph={"facts": file})


def test_recbole_without_links_has_items_as_heads(tmp_path: Path) -> None:
    file = write(tmp_path, "x.kg", KG_HEADER + "kind\ta\tpen\n")
    assert attributes_of(made(tmp_path, item_graph={"facts": file}), "facts")["a"] == {("kind", "pen")}


REFUSED_TRIPLES = {
    "empty": ("", "is empty"),
    "header alone": (KG_HEADER, "holds no triple"),
    "another header": ("head_id:token\ttail_id:token\n", "its columns are head_id:token, tail_id:token, not head_id"),
    "ragged": ("a\tkind\tpen\n\na\tkind\n", "facts.tsv:3: is not head, relation and tail"),
    "four": ("a\tkind\tpen\tx\n", "facts.tsv:1: is not head, relation and tail"),
    "no tail": ("a\tkind\tpen\r\nb\tkind\t\r\n", "facts.tsv:2: the tail is empty"),
    "no head": (KG_HEADER + "kind\ta\tpen\nkind\t\tpen\n", "facts.tsv:3: the head is empty"),
    "bytes": (b"a\tkind\tpen\na\tkind\t\xff\n", "facts.tsv:2: is not UTF-8"),
    "foreign": ("x\tkind\tpen\n", "none of its heads is an item"),
}


@pytest.mark.parametrize("name", REFUSED_TRIPLES)
def test_refused_triples(tmp_path: Path, name: str) -> None:
    content, message = REFUSED_TRIPLES[name]
    with pytest.raises(UserError) as raised:
        made(tmp_path, item_graph={"facts": write(tmp_path, "facts.tsv", content)})
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "facts.tsv"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_names_and_files_are_checked_first(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 1)))
    wrong = {
        "--item-graph social=…: social is a computed channel": {"item_graph": {"social": tmp_path / "x"}},
        "--item-graph my-graph=…: the name must be": {"item_graph": {"my-graph": tmp_path / "x"}},
        "x.kg: no such file; check --item-graph": {"item_graph": {"x": tmp_path / "x.kg"}},
        "x.csv: no such file; check --user-graph": {"user_graph": tmp_path / "x.csv"},
        "--item-graph x=…: x is an item feature already": {
            "item_features": {"x": tmp_path / "x.npy"},
            "item_graph": {"x": tmp_path / "x.npy"},
        },
    }
    for message, options in wrong.items():
        with pytest.raises(UserError, match=message):
            made(tmp_path, **options)
    dataset = made(tmp_path)
    with pytest.raises(UserError, match="no item graph 'x'; there are: none; prepare takes --item-graph"):
        dataset.item_graph("x")
    with pytest.raises(UserError, match="no user graph; prepare takes --user-graph"):
        dataset.user_graph()


FRIENDS = [("p", "q"), ("q", "p"), ("r", "q"), ("r", "r"), ("p", "stranger")]
EXPECTED = [{1}, {0, 2}, {1}, set()]


@pytest.mark.parametrize("form", ["csv", "tsv", "net", "parquet"])
def test_a_user_graph_in_any_table(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"friends.{form}"
    if form == "parquet":
        left, right = zip(*FRIENDS, strict=True)
        pq.write_table(pa.table({"who": left, "trusts": right, "since": [1] * len(left)}), file)
    else:
        separator, names = {"csv": (",", ("a", "b")), "tsv": ("\t", ("a", "b"))}.get(
            form, ("\t", ("source_id:token", "target_id:token"))
        )
        file.write_text("".join(separator.join(line) + "\n" for line in [names, *FRIENDS]))
    dataset = made(tmp_path, user_graph=file)
    assert sets(dataset.user_graph()) == EXPECTED
    assert dataset.manifest.user_graph is not None
    assert dataset.manifest.user_graph.pairs == 4
    assert "user-graph/indices.npy" in dataset.manifest.files


@pytest.mark.parametrize("form", ["csv", "tsv", "net", "parquet"])
def test_other_columns_of_a_user_graph_are_not_read(tmp_path: Path, form: str) -> None:
    file, names = tmp_path / f"friends.{form}", ("a:token", "b:token", "timestamp", "rating")
    rows = [(*pair, "long ago", "much") for pair in FRIENDS]
    if form == "parquet":
        pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), file)
    else:
        separator = "," if form == "csv" else "\t"
        file.write_text("".join(separator.join(line) + "\n" for line in [names, *rows]))
    assert sets(made(tmp_path, user_graph=file).user_graph()) == EXPECTED


def test_a_user_graph_in_lines_of_integers(tmp_path: Path) -> None:
    for name, text in {"pairs": "1 2\n2 1\n3 2\n3 3\n1 77\n", "lines": "1 2 77\n2 1\n3 2 3\n"}.items():
        (tmp_path / name).mkdir()
        dataset = made(tmp_path / name, users=[1, 2, 3, 4], user_graph=write(tmp_path, f"{name}.txt", text))
        assert sets(dataset.user_graph()) == EXPECTED


def test_refused_user_graphs(tmp_path: Path) -> None:
    wrong = {
        "a.csv": ("one\n1\n", "has 1 column"),
        "b.csv": ("a,b\nx,y\n", "no pair is of two users"),
        "c.csv": ("a,b\np\n", "c.csv:2"),
        "d.csv": ("1,2\n3,4\n", "d.csv: begins with 1, 2, which is a pair and no header"),
        "e.csv": ("p,q\nq,r\n", "e.csv: begins with p, q, which is a pair and no header"),
        "f.tsv": ("p\tq\t7\nq\tr\t8\n", "f.tsv: begins with p, q, 7, which is a pair and no header"),
    }
    for name, (text, message) in wrong.items():
        with pytest.raises(UserError, match=message):
            made(tmp_path, user_graph=write(tmp_path, name, text))


def test_the_graph_of_movielens() -> None:
    """Against a plain reading of the same files."""
    folder = default_cache() / "ml-100k"
    if not (folder / "ml-100k.kg").is_file():
        pytest.skip(f"no sample data in {folder}")
    from infodcl_dist.data.graph_files import read_item_graph

    items = [str(item) for item in range(1, 1683)]
    graph = read_item_graph("kg", folder / "ml-100k.kg", pa.array(items))
    entity = dict(line.split("\t") for line in (folder / "ml-100k.link").read_text().splitlines()[1:])
    facts: dict[str, set] = {}
    for line in (folder / "ml-100k.kg").read_text().splitlines()[1:]:
        head, relation, tail = line.split("\t")
        facts.setdefault(head, set()).add((relation, tail))
    words = list(zip(*(graph.attributes[name].to_pylist() for name in ("relation", "tail")), strict=True))
    visited = 0
    for item, found in zip(items, sets(graph.attributes_of_items), strict=True):
        assert {words[k] for k in found} == facts.get(entity.get(item, ""), set())
        visited += len(found)
    assert visited > 30_000
