"""Recommendation files over ranks against loops: interrupted, gone on with at another world size, for new users too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluation import ITEMS, USERS, graph, sets, tables

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.locks import locked
from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference import folding, ranking, recommendation, shortlists
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.folding import fold_in
from infodcl_dist.inference.parts import Parts
from infodcl_dist.inference.recommendation import KnownUsers, NewUsers, write_recommendations
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import column_span

WIDTH, TOP, PART = 8, 4, 2
USER_IDS = pa.array([f"user-{index:02d}" for index in range(USERS)])
ITEM_IDS = pa.array(np.arange(ITEMS) * 10)
HISTORIES = [[3, 7, 29], [0], [28, 29], [1, 2, 3, 4, 5, 6], [12]]
NEW_IDS = pa.array(["ann", "bob", "cy", "dee", "eve"])


@contextmanager
def in_small_parts(places: int = ranking.LIST_PLACES) -> Iterator[pytest.MonkeyPatch]:
    """Several tiles, blocks and parts of everything; no wait for another command."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, size in (
            (ranking, "ITEM_TILE", 7),
            (recommendation, "PART_USERS", PART),
            (recommendation, "USER_TILE", 3),
            (recommendation, "LIST_PLACES", places),
            (recommendation, "ENDING_S", 0),
            (shortlists, "BLOCK_USERS", 3),
            (shortlists, "BLOCK_ITEMS", 5),
            (folding, "BLOCK_PAIRS", 4),
        ):
            patch.setattr(module, name, size)
        yield patch


def embeddings(group: Group) -> Embeddings:
    columns = slice(*column_span(WIDTH, group.rank, group.world_size))
    users, items = (side[:, columns].contiguous() for side in tables(WIDTH, ties=False))
    return Embeddings(users, items, WIDTH)


def histories() -> Rows:
    offsets = np.cumsum([0, *map(len, HISTORIES)])
    return Rows(torch.from_numpy(offsets), torch.tensor([item for own in HISTORIES for item in own]))


def write(
    group: Group,
    out: Path,
    *,
    users: list[int] | None,
    candidates: list[int] | None,
    fail_after: int | None,
    places: int = ranking.LIST_PLACES,
) -> tuple[int, str]:
    """Writes a file; how many parts this rank made, and what stopped it. `users` None: the new ones."""
    made = 0
    plainly = Parts.write

    def counted(parts: Parts, index: int, table: pa.Table) -> None:
        nonlocal made
        if made == fail_after:
            raise InterruptedError("as by a user")
        made += 1
        plainly(parts, index, table)

    train = graph("train")
    audience: Any = NewUsers(NEW_IDS, histories(), train.users_of_item.degrees)
    if users is not None:
        audience = KnownUsers(USER_IDS.take(pa.array(users)), torch.tensor(users), [train.items_of_user])
    with in_small_parts(places) as patch:
        patch.setattr(Parts, "write", counted)
        try:
            write_recommendations(
                out,
                audience,
                embeddings(group),
                item_ids=ITEM_IDS,
                candidates=None if candidates is None else torch.tensor(candidates),
                k=TOP,
                origin={"users": users, "candidates": candidates},
                group=group,
            )
        except (InterruptedError, UserError) as error:
            return made, str(error)
    return made, ""


def expected(scores: torch.Tensor, ids: pa.Array, seen: list[set[int]], candidates: list[int] | None) -> pa.Table:
    rows: dict[str, list] = {"user": [], "item": [], "rank": [], "score": []}
    for user, identity in enumerate(ids.to_pylist()):
        order = sorted(range(ITEMS), key=lambda item: (-scores[user, item].item(), item))
        allowed = [i for i in order if i not in seen[user] and (candidates is None or i in candidates)]
        for place, item in enumerate(allowed[:TOP]):
            rows["user"].append(identity)
            rows["item"].append(item * 10)
            rows["rank"].append(place + 1)
            rows["score"].append(scores[user, item].item())
    kinds = {"user": pa.string(), "item": pa.int64(), "rank": pa.int32(), "score": pa.float32()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in rows.items()})


def of_known(users: list[int], candidates: list[int] | None) -> pa.Table:
    rows, items = (side.double() for side in tables(WIDTH, ties=False))
    seen = sets("train")
    scores = (rows[users] @ items.T).float()
    return expected(scores, USER_IDS.take(pa.array(users)), [seen[user] for user in users], candidates)


SOME = [0, 1, 6, 7, 8, 13, 20]
CHOICES = [(list(range(USERS)), None), (SOME, [2, 3, 4, 16, 28]), (SOME, [29])]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("users", "candidates"), CHOICES)
def test_files_are_the_loops_lists(ranks, tmp_path, world_size, users, candidates):
    out = tmp_path / "lists.parquet"
    results = ranks(world_size, call, out, {"users": users, "candidates": candidates, "fail_after": None})
    assert sum(made for made, _ in results) == -(-len(users) // PART)
    assert {stop for _, stop in results} == {""}
    assert pq.read_table(out).equals(of_known(users, candidates))
    assert [file.name for file in tmp_path.iterdir()] == ["lists.parquet"]


def call(group: Group, out: Path, given: dict[str, Any]) -> tuple[int, str]:
    return write(group, out, **given)


def test_an_interrupted_file_goes_on_at_another_world_size(ranks, tmp_path):
    out, users = tmp_path / "lists.parquet", list(range(USERS))
    given = {"users": users, "candidates": None, "fail_after": None}
    parts, done = -(-USERS // PART), 0
    for world_size, after in ((4, 1), (1, 2), (2, 1)):  # all ranks of a group have a part when they fail
        results = ranks(world_size, call, out, given | {"fail_after": after})
        assert [(made, bool(stop)) for made, stop in results] == [(after, True)] * world_size
        assert not out.exists()
        done += after * world_size
        assert len(list((tmp_path / ".lists.parquet.parts").glob("part-*.parquet"))) == done
    results = ranks(2, call, out, given)
    assert sum(made for made, _ in results) == parts - done > 0
    assert pq.read_table(out).equals(of_known(users, None))
    assert [file.name for file in tmp_path.iterdir()] == ["lists.parquet"]
    (outcome,) = ranks(1, call, out, given)
    assert outcome == (0, f"{out}: exists already; choose another file, or remove it")


def test_parts_of_another_command_are_not_used(ranks, tmp_path):
    out = tmp_path / "lists.parquet"
    ranks(1, call, out, {"users": SOME, "candidates": None, "fail_after": 2})
    (outcome,) = ranks(1, call, out, {"users": SOME, "candidates": [29], "fail_after": None})
    assert outcome == (-(-len(SOME) // PART), "")
    assert pq.read_table(out).equals(of_known(SOME, [29]))


def test_long_lists_make_parts_of_fewer_users(ranks, tmp_path):
    out = tmp_path / "lists.parquet"
    given = {"users": SOME, "candidates": [2, 3, 4, 16, 28], "fail_after": None, "places": 7}  # one list of four
    results = ranks(2, call, out, given)
    assert sum(made for made, _ in results) == len(SOME)
    assert pq.read_table(out).equals(of_known(SOME, [2, 3, 4, 16, 28]))


def test_a_file_that_another_makes_is_left_alone(ranks, tmp_path):
    out = tmp_path / "lists.parquet"
    ranks(1, call, out, {"users": SOME, "candidates": None, "fail_after": 2})
    parts = sorted((tmp_path / ".lists.parquet.parts").iterdir())
    assert not (tmp_path / ".lists.parquet.lock").exists()
    with locked(tmp_path / ".lists.parquet.lock"):
        results = ranks(2, call, out, {"users": SOME, "candidates": [29], "fail_after": None})
    assert {stop.partition(";")[0] for _, stop in results} == {
        f"{tmp_path}: another command that makes lists.parquet works on it"
    }
    assert sorted((tmp_path / ".lists.parquet.parts").iterdir()) == parts


def dense_fold() -> torch.Tensor:
    """û = Σ ẽ_i / √(|history| max(|N_i|, 1)), a user at a time."""
    _, items = (side.double() for side in tables(WIDTH, ties=False))
    degrees = np.maximum(np.bincount(np.concatenate([list(s) for s in sets("train")]).astype(int), minlength=ITEMS), 1)
    return torch.stack([sum(items[i] / np.sqrt(len(own) * degrees[i]) for i in own) for own in HISTORIES])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_new_users_are_folded_in(ranks, tmp_path, world_size):
    out, candidates = tmp_path / "lists.parquet", [0, 1, 2, 3, 5, 8, 13, 21, 28, 29]
    results = ranks(world_size, call, out, {"users": None, "candidates": candidates, "fail_after": None})
    assert sum(made for made, _ in results) == 3
    _, items = (side.double() for side in tables(WIDTH, ties=False))
    scores = (dense_fold().float().double() @ items.T).float()
    assert pq.read_table(out).equals(expected(scores, NEW_IDS, [set(own) for own in HISTORIES], candidates))


def folded(group: Group) -> torch.Tensor:
    with in_small_parts():
        return fold_in(embeddings(group), histories(), graph("train").users_of_item.degrees)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_folded_row_is_the_next_layers_mean_without_the_users_own(ranks, world_size):
    for rows in ranks(world_size, folded):
        # Sums in float64, rounded once.
        torch.testing.assert_close(rows, dense_fold().float(), rtol=1e-6, atol=0)
    # The relation to Eq. 16 that `folding` states, on users of the graph itself.
    (found,) = ranks(1, folded_of_the_graph)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def folded_of_the_graph(group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """Users of the graph, folded in from the final items; and 1/(K+1) · ((K+2) · mean of layers 0 … K+1 − layer 0)."""
    from infodcl_dist.graph.propagation import propagate

    train, layers = graph("train"), 2
    users, items = tables(WIDTH, ties=False)
    _, final = propagate(train, users, items, layers)
    one_more, _ = propagate(train, users, items, layers + 1)
    rows = fold_in(Embeddings(users, final, WIDTH), train.items_of_user, train.users_of_item.degrees)
    return rows, ((layers + 2) * one_more - users) / (layers + 1)
