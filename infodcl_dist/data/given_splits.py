"""What must hold of splits that the user brings: no id out of nowhere, no pair on both sides.

Legend: P pairs of a file, n ids of a catalogue.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np
import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.ids import are_integers
from infodcl_dist.data.pairs import Pairs, first_shared, pair_keys
from infodcl_dist.data.sources import Source, SourceFile

UnknownIds = Literal["error", "keep", "drop"]


def settle_unknown_ids(
    source: Source, policy: UnknownIds, have_features: Callable[[pa.Array], np.ndarray]
) -> tuple[Source, int]:
    """Finds users and items of validation and test that train does not know, and does with them as the policy says.

    Known is what occurs in train; of integer ids also what is no larger than train's largest, since such ids number a
    catalogue; and an item for which a feature file has a row.

    Args:
        source: files by split.
        policy: `error`; `keep` them in the catalogue; `drop` their pairs.
        have_features: which of some items [n] have a row in a feature file, bool [n]; asked where train does not know
            all, since it reads those files.

    Returns:
        The source, and how many pairs were dropped.

    Raises:
        UserError: the policy is `error` and there is an unknown id; names file, line and id.
    """
    train = source.files["train"].pairs
    known = {"user": _known(source.user_ids, train.users), "item": _known(source.item_ids, train.items)}
    if not known["item"].all():
        known["item"] |= have_features(source.item_ids)
    files, dropped = dict(source.files), 0
    for split, file in source.files.items():
        in_both = known["user"][file.pairs.users] & known["item"][file.pairs.items]
        if in_both.all() or policy == "keep":
            continue
        if policy == "error":
            raise _unknown(source, file, int(np.argmin(in_both)), known)
        files[split] = file.take(in_both)
        dropped += int((~in_both).sum())
    return replace(source, files=files), dropped


def check_no_shared_pair(source: Source, splits: dict[str, Pairs]) -> None:
    """Refuses a pair that stands in two splits: train and validation, train and test, validation and test.

    Args:
        source: the files, for the message.
        splits: pairs sorted by (user, item), in the order train, valid, test.

    Raises:
        UserError: names the pair by the user's own ids, and both its places.
    """
    keys = {split: pair_keys(pairs.users, pairs.items, len(source.item_ids)) for split, pairs in splits.items()}
    for earlier, later in combinations(splits, 2):
        shared = first_shared(keys[earlier], keys[later])
        if shared is None:
            continue
        user, item = splits[later].users[shared], splits[later].items[shared]
        here, there = (_place_of_pair(source.files[split], user, item) for split in (later, earlier))
        named = f"user {source.user_ids[user]}, item {source.item_ids[item]}"
        raise UserError(f"{here}: the pair ({named}) stands in {there} too; take it out of one of them")


def _known(ids: pa.Array, train_codes: np.ndarray) -> np.ndarray:
    known = np.zeros(len(ids), bool)
    known[train_codes] = True
    if are_integers(ids) and len(train_codes):
        values = ids.to_numpy()
        known |= values <= values[train_codes.max()]
    return known


def _unknown(source: Source, file: SourceFile, row: int, known: dict[str, np.ndarray]) -> UserError:
    item = file.pairs.items[row]
    kind, code, ids = ("item", item, source.item_ids)
    if known["item"][item]:
        kind, code, ids = ("user", file.pairs.users[row], source.user_ids)
    beyond = " and lies beyond its largest id" if are_integers(ids) else ""
    return UserError(
        f"{file.place(row)}: {kind} {ids[code]} never occurs in train{beyond}; correct it, "
        "or give --unknown-ids keep (it joins the catalogue) or drop (its pairs are left out)"
    )


def _place_of_pair(file: SourceFile, user: int, item: int) -> str:
    return file.place(int(np.argmax((file.pairs.users == user) & (file.pairs.items == item))))
