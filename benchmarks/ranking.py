"""Top-K of many users against a large catalogue: `top_items`, which masks seen items, beside faiss's flat index.

    OMP_NUM_THREADS=2 python benchmarks/ranking.py [--users M] [--items N] [--top K] [--sample S] [--repeats R]

Random rows of width 64; each user has 20 seen items, of which some are among its best (as trained ones are). A sample
of users is ranked R times by both in turn, for medians; then all users once by each, unless --skip-full. Prints a
Markdown table with the largest resident memory so far, faiss's copy of the items included, and checks the lists of 100
users against NumPy in float64. Needs faiss-cpu. Threads: OMP_NUM_THREADS.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from infodcl_dist.graph.bipartite import Rows
from infodcl_dist.inference.embeddings import Embeddings
from infodcl_dist.inference.ranking import top_items
from infodcl_dist.parallel.group import Group, process_group

WIDTH, SEEN, LIKED, CHECKED = 64, 20, 2, 100


def make(users: int, items: int) -> tuple[Embeddings, Rows]:
    """Rows, and each user's seen items; a user's row leans to some of these."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((items, WIDTH), dtype=np.float32)
    seen = np.sort(generator.integers(0, items, (users, SEEN)), axis=1)
    made = generator.standard_normal((users, WIDTH), dtype=np.float32)
    for column in range(LIKED):
        made += rows[seen[:, column]]
    offsets = torch.arange(users + 1) * SEEN
    return Embeddings(torch.from_numpy(made), torch.from_numpy(rows), WIDTH), Rows(
        offsets, torch.from_numpy(seen).view(-1)
    )


def head(embeddings: Embeddings, seen: Rows, users: int) -> tuple[Embeddings, Rows]:
    """The first users alone."""
    return Embeddings(embeddings.users[:users], embeddings.items, WIDTH), Rows(seen.offsets[: users + 1], seen.indices)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def check(embeddings: Embeddings, seen: Rows, lists: np.ndarray) -> int:
    """Compares the lists of some users with a sort of all float64 scores; how many items were the masks' doing."""
    items, masked = embeddings.items.numpy().astype(np.float64), 0
    for user in np.linspace(0, embeddings.user_count - 1, CHECKED).astype(int):
        scores = (items @ embeddings.users[user].numpy().astype(np.float64)).astype(np.float32)
        unmasked = np.argsort(-scores, kind="stable")[: lists.shape[1]]
        scores[seen.indices[user * SEEN : (user + 1) * SEEN].numpy()] = -np.inf
        expected = np.argsort(-scores, kind="stable")[: lists.shape[1]]
        np.testing.assert_array_equal(lists[user], expected)
        masked += len(np.setdiff1d(unmasked, expected))
    return masked


class Contest:
    """Both ways to rank, and the table's lines."""

    def __init__(self, embeddings: Embeddings, seen: Rows, top: int, group: Group) -> None:
        self._embeddings, self._seen, self._top, self._group = embeddings, seen, top, group
        faiss.omp_set_num_threads(torch.get_num_threads())
        self._index = faiss.IndexFlatIP(WIDTH)

    def ours(self, users: int) -> np.ndarray:
        embeddings, seen = head(self._embeddings, self._seen, users)
        wanted = torch.arange(users)
        chunks = top_items(embeddings, wanted, group=self._group, masks=[seen], k=self._top)
        return torch.cat([items for _, items, _ in chunks]).numpy()

    def faiss(self, users: int) -> np.ndarray:
        if not self._index.ntotal:
            self._index.add(self._embeddings.items.numpy())
        return self._index.search(self._embeddings.users[:users].numpy(), self._top)[1]

    def say(self, name: str, users: int, seconds: list[float], against: float | None = None) -> None:
        median = statistics.median(seconds)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}" if len(seconds) > 1 else "once"
        ratio = f"{median / against:.2f}" if against else ""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {users:,} | {median:.1f} | {spread} | {ratio} | {memory:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--sample", type=int, default=8_192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-full", action="store_true")
    given = parser.parse_args()
    embeddings, seen = make(given.users, given.items)
    with process_group(timeout_s=600) as group:
        contest = Contest(embeddings, seen, given.top, group)
        contest.ours(64), contest.faiss(64)  # compiles, and makes faiss's copy
        print(
            f"\n{given.items:,} items, top {given.top}, {torch.get_num_threads()} threads, faiss {faiss.__version__}\n"
        )
        print("| method | users | seconds | spread | by faiss | largest memory, GiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        rounds = [
            (timed(lambda: contest.ours(given.sample)), timed(lambda: contest.faiss(given.sample)))
            for _ in range(given.repeats)
        ]
        ours, theirs = ([both[i][0] for both in rounds] for i in (0, 1))
        contest.say("top_items", given.sample, ours, statistics.median(theirs))
        contest.say("IndexFlatIP", given.sample, theirs)
        if given.skip_full:
            return
        seconds, lists = timed(lambda: contest.ours(given.users))
        against, _ = timed(lambda: contest.faiss(given.users))
        contest.say("top_items", given.users, [seconds], against)
        contest.say("IndexFlatIP", given.users, [against])
        masked = check(embeddings, seen, lists)
        print(f"\nThe lists of {CHECKED} users are those of float64; masks kept {masked} items out of them.")


if __name__ == "__main__":
    main()
