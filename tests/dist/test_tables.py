import pytest
import torch
from reference.weights import relative_error
from torch import nn

from infodcl_dist.parallel.collectives import gather_objects
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import NOTHING
from infodcl_dist.parallel.tables import Tables, TablesConfig

USERS, ITEMS, WIDTH, GLOBAL_BATCH = 19, 23, 8, 12
SUMMED = 1e-6  # a row's gradient is the sum of at most 12 float32 rows


def build(group: Group, initialization: str = "xavier", users: int = USERS, items: int = ITEMS) -> Tables:
    config = TablesConfig(initialization=initialization)
    return Tables(users=users, items=items, dim=WIDTH, config=config, seed=5, group=group)


def ids() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A global batch: repeated users, an item that is both positive and negative, first and last rows."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(USERS, (GLOBAL_BATCH,), generator=generator)
    positives, negatives = torch.randint(ITEMS, (2, GLOBAL_BATCH), generator=generator).unbind()
    users[:4] = torch.tensor([0, 0, USERS - 1, USERS - 1])
    positives[:3], negatives[:3] = torch.tensor([0, ITEMS - 1, 7]), torch.tensor([7, 7, 0])
    return users, positives, negatives


def pulls() -> tuple[torch.Tensor, ...]:
    return torch.randn(3, GLOBAL_BATCH, WIDTH, generator=torch.Generator().manual_seed(9)).unbind()


def look_up(group: Group) -> dict[str, torch.Tensor | tuple[int, ...]]:
    tables = build(group)
    per_rank = GLOBAL_BATCH // group.world_size
    own = slice(group.rank * per_rank, (group.rank + 1) * per_rank)
    looked_up = tables.lookup(*(x[own] for x in ids()))
    # The loss of a rank is W × its share of the global loss: its mean over ranks is the global loss.
    loss = group.world_size * sum((rows * pull[own]).sum() for rows, pull in zip(looked_up[:3], pulls(), strict=True))
    loss.backward()
    user_rows, item_rows = (x.detach() for x in tables.parameters())
    return {
        "looked up": torch.stack([rows.detach() for rows in looked_up[:3]]),
        "user": user_rows,
        "item": item_rows,
        "user grad": tables.user_rows.grad,
        "item grad": tables.item_rows.grad,
        "spans": tuple(edge for block in tables.own_blocks() for edge in block.rows),
        "text": str(tables),
    }


def initial_values(group: Group, initialization: str) -> list[torch.Tensor]:
    tables = build(group, initialization, users=1_000, items=777)
    return [torch.cat(gather_objects(rows.detach())) for rows in tables.parameters()]


def joined(results: list[dict], name: str) -> torch.Tensor:
    return torch.cat([result[name] for result in results])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_lookups_and_gradients_equal_dense_rows(ranks, world_size):
    results = ranks(world_size, look_up)
    dense = {name: joined(results, name).requires_grad_() for name in ("user", "item")}
    assert dense["user"].shape == (USERS, WIDTH)
    assert dense["item"].shape == (ITEMS, WIDTH)

    users, positives, negatives = ids()
    expected = [dense["user"][users], dense["item"][positives], dense["item"][negatives]]
    found = torch.cat([result["looked up"] for result in results], dim=1)
    assert torch.equal(found, torch.stack(expected)), "rows travel, nothing is computed"

    sum((rows * pull).sum() for rows, pull in zip(expected, pulls(), strict=True)).backward()
    for name, table in dense.items():
        assert relative_error(joined(results, f"{name} grad"), table.grad) < SUMMED


def whole_and_looked_up(group: Group) -> tuple[dict[str, torch.Tensor], list[bool]]:
    """The gradient of rows that are looked up and taken whole as well, once and once more after it was cleared."""
    tables = build(group)
    users, positives, negatives = ids()
    for _ in range(2):
        for rows in tables.parameters():
            rows.grad = None
        looked_up = tables.lookup(users, positives, negatives)
        whole = (tables.rows("user") ** 2).sum() + (tables.columns("item") ** 2).sum()
        (whole + looked_up.users.sum() + looked_up.positives.sum()).backward()
    unseen = [torch._C.TensorBase.grad.__get__(rows) is not None for rows in tables.parameters()]
    held = {"user": tables.user_rows.detach(), "item": tables.item_rows.detach()}
    return held | {"user grad": tables.user_rows.grad, "item grad": tables.item_rows.grad}, unseen


def test_rows_taken_whole_leave_no_second_gradient_behind(ranks):
    ((found, unseen),) = ranks(1, whole_and_looked_up)
    assert unseen == [False, False], "TorchRec's slice keeps a copy of the table that zero_grad never clears"
    for name, asked in (("user", ids()[0]), ("item", ids()[1])):
        expected = 2 * found[name] + torch.bincount(asked, minlength=len(found[name]))[:, None]
        assert relative_error(found[f"{name} grad"], expected) < SUMMED


def with_samples_missing(group: Group) -> str:
    tables = Tables(
        users=USERS, items=ITEMS, dim=WIDTH, config=TablesConfig(), seed=5, group=group, samples_per_example=2
    )
    with pytest.raises(ValueError, match="no samples are given to tables that look 2 an example up"):
        tables.lookup(*ids())
    absent = nn.Parameter(torch.empty(0))
    tables.layouts["user"], tables._device = [NOTHING], torch.device("meta")
    return str(tables._shard("user", absent).device)


def with_samples_too_many(group: Group) -> str:
    users, positives, negatives = ids()
    with pytest.raises(ValueError, match="some samples") as raised:
        build(group).lookup(users, positives, negatives, negatives[:, None])
    return str(raised.value)


def test_tables_without_samples_are_given_none(ranks):
    assert ranks(1, with_samples_too_many) == ["some samples are given to tables that look 0 an example up"]


def test_tables_with_samples_are_never_asked_without_and_none_lies_on_another_device(ranks):
    assert ranks(1, with_samples_missing) == ["meta"]


@pytest.mark.parametrize("world_size", [2, 4])
def test_each_rank_holds_its_rows_alone(ranks, world_size):
    for result in ranks(world_size, look_up):
        assert result["user"].shape[0] < USERS
        assert result["item"].shape[0] < ITEMS
        user_start, user_stop, item_start, item_stop = result["spans"]
        assert result["user"].shape[0] == user_stop - user_start
        assert result["item"].shape[0] == item_stop - item_start
        assert f"item {item_stop - item_start} of 23" in result["text"]


@pytest.mark.parametrize("initialization", ["xavier", "normal"])
def test_initial_values_do_not_depend_on_the_world_size(ranks, initialization):
    alone = ranks(1, initial_values, initialization)[0]
    for world_size in (2, 4):
        for per_rank in ranks(world_size, initial_values, initialization):
            assert all(torch.equal(found, wanted) for found, wanted in zip(per_rank, alone, strict=True))
    users, items = alone
    assert not torch.equal(users[:777], items)
    for table in alone:
        rows = table.shape[0]
        # Xavier: uniform within sqrt(6 / (rows + D)), a variance of 2 / (rows + D). 6,000 values tell it to 3 %.
        std = (2 / (rows + WIDTH)) ** 0.5 if initialization == "xavier" else 0.1
        assert float(table.std()) == pytest.approx(std, rel=0.04)
        assert abs(float(table.mean())) < 5 * std / (rows * WIDTH) ** 0.5


def read_fused_rows(group: Group) -> list[str]:
    config = TablesConfig(kernel="fused", optimizer="sgd", sharding="table_wise")
    tables = Tables(users=9, items=6, dim=8, config=config, seed=0, group=group)
    with torch.no_grad():
        assert tables.columns("user").shape == (9, 8 // group.world_size)
        assert tables.rows("item").shape == (6 // group.world_size, 8)
    refusals = []
    for read in (tables.rows, tables.columns):
        with pytest.raises(RuntimeError) as refused:
            read("item")
        refusals.append(str(refused.value))
    return refusals


def test_rows_of_a_fused_table_are_read_and_never_differentiated(ranks):
    for refusals in ranks(2, read_fused_rows):
        assert refusals == ["rows of the item table were asked for with a gradient, which a fused kernel has not"] * 2


def look_up_in_small_tables(group: Group) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
    tables = Tables(users=9, items=3, dim=7, config=TablesConfig(), seed=0, group=group)
    items = torch.tensor([0, 1, 2, group.rank % 3])
    rows = tables.lookup(torch.tensor([8, 0, 4, 4]), items, items)
    rows.positives.sum().backward()
    return tables.item_rows.shape[0], tables.item_rows.grad, rows.positives.detach(), tables.item_rows.detach()


def test_a_rank_may_hold_no_row_and_a_width_may_be_odd(ranks):
    results = ranks(4, look_up_in_small_tables)
    assert [count for count, *_ in results] == [1, 1, 1, 0]
    table = torch.cat([rows for *_, rows in results])
    for rank, (_, _, found, _) in enumerate(results):
        assert torch.equal(found, table[[0, 1, 2, rank % 3]])
    # Each rank asks once for every item and ranks 0 to 3 once more for items 0, 1, 2 and 0; the mean over 4 ranks.
    gradient = torch.cat([grad for _, grad, _, _ in results])
    assert torch.equal(gradient, torch.tensor([1.5, 1.25, 1.25])[:, None].expand(3, 7))
