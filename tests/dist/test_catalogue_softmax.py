from itertools import pairwise

import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error
from torch.nn.functional import normalize

from infodcl_dist.base.random import integers, key_for
from infodcl_dist.parallel import catalogue_softmax, softmax_sweep
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.ownership import row_span

# Exponentials of cosines over temperature, at most e^20 apart, summed in float32 over at most 130 items in tiles:
# measured 2.3e-7.
TOLERANCE = 2e-6
WIDTH = 8
CASES = [  # items, global batch, padding rows on the last rank, tile of views, tile of rows, temperature
    (23, 12, 0, 256, 2048, 0.5),
    (23, 12, 2, 5, 3, 0.5),
    (130, 8, 1, 3, 7, 0.1),
    (4, 4, 0, 1, 1, 1.0),
    (5, 8, 1, 256, 2, 0.5),  # over 4 ranks the last one holds no row
]


def matrices(items: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(items)
    table = torch.randn(items, WIDTH, generator=generator)
    views = torch.randn(batch, WIDTH, generator=generator) * torch.logspace(-2, 2, batch)[:, None]
    return table, views, torch.randint(items, (batch,), generator=generator)


def views_of(plan: str, items: int) -> int:
    """How many views make the catalogue stay where it is, or be gathered."""
    return {"spread": items - 1, "gathered": items}[plan]


def sharded(group: Group, case: tuple, plan: str = "spread") -> dict[str, torch.Tensor]:
    items, batch, padding, tile_views, tile_rows, temperature = case
    sizes = softmax_sweep.SIZES["cpu"]
    sizes = sizes._replace(tile_rows=tile_rows, least_views=tile_views, most_views=tile_views)
    table, views, positives = matrices(items, batch)
    per_rank = batch // group.world_size
    own = slice(group.rank * per_rank, (group.rank + 1) * per_rank)
    shares = (torch.arange(batch) < batch - padding).float() * group.world_size / (batch - padding)
    rows = table[slice(*row_span(items, group.rank, group.world_size))].clone().requires_grad_()
    generated = views[own].clone().requires_grad_()
    embeddings = table[positives[own]].clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(softmax_sweep.SIZES, "cpu", sizes)
        catalogue = catalogue_softmax.catalogue_of(rows, items=items, views=views_of(plan, items))
        value = catalogue_softmax.contrastive(generated, embeddings, catalogue, shares[own], temperature=temperature)
        value.backward()
    return {"value": value.detach()[None], "views": generated.grad, "own": embeddings.grad, "rows": rows.grad}


@pytest.mark.parametrize("plan", ["spread", "gathered"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_value_and_gradients_of_every_row_equal_the_dense_softmax(ranks, world_size, plan):
    visited = 0
    for case in CASES:
        items, batch, padding, _, _, temperature = case
        results = ranks(world_size, sharded, case, plan)
        found = {name: torch.cat([result[name] for result in results]) for name in results[0]}

        table, views, positives = (x[:batch] if x.shape[0] == batch else x for x in matrices(items, batch))
        real = batch - padding
        dense, dense_views = table.double().requires_grad_(), views[:real].double().requires_grad_()
        expected = reference.contrastive(dense_views, positives[:real], dense, temperature)
        expected.backward()

        assert relative_error(found["value"].mean(), expected) < TOLERANCE
        # Each rank's loss is W × its share; what DeepSpeed and TorchRec average over ranks is averaged here.
        assert relative_error(found["views"][:real] / world_size, dense_views.grad) < TOLERANCE
        assert (found["views"][real:] == 0).all()
        rows = found["rows"].index_add(0, positives, found["own"] / world_size)
        assert relative_error(rows, dense.grad) < TOLERANCE
        assert (found["rows"].abs().sum(dim=1) > 0).all(), "the gradient reaches every row of every rank"
        visited += 1
    assert visited == 5


def at_medium(group: Group) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """With float32 products, and with products that may be rounded; in several tiles and blocks."""
    exact = sharded(group, ROUNDED_CASE)
    torch.set_float32_matmul_precision("medium")
    try:
        return exact, sharded(group, ROUNDED_CASE)
    finally:
        torch.set_float32_matmul_precision("highest")


ROUNDED_CASE = (130, 64, 0, 8, 50, 0.2)


@pytest.mark.parametrize("world_size", [1, 2])
def test_tiles_at_medium_are_bfloat16_where_the_cpu_has_units_for_it(ranks, world_size):
    for exact, rounded in ranks(world_size, at_medium):
        # An exponent of 5 is rounded by 0.01, its exponential, vectors and their sums by 0.004 each. Measured 0.012.
        for name in exact:
            assert relative_error(rounded[name], exact[name]) < 2e-2, name
        assert torch.equal(exact["views"], rounded["views"]) != torch.cpu._is_avx512_bf16_supported()


def test_a_large_exponent_is_never_rounded(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    views = torch.ones(1, 1)
    assert softmax_sweep._type_of_tiles(views, 0.1) == torch.bfloat16
    assert softmax_sweep._type_of_tiles(views, 0.099) == torch.float32
    assert softmax_sweep._type_of_tiles(views.double(), 0.1) == torch.float64


def short_rows(group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' gradient by tiles, and by autograd through normalize."""
    table, views, _ = (x.double() if x.is_floating_point() else x for x in matrices(6, 4))
    table[1], table[2] = 0.0, 1e-14 * table[2]  # no direction, and shorter than what normalize divides by
    rows, dense = (table.clone().requires_grad_() for _ in range(2))
    own, shares = table[:1].expand(4, -1), torch.full((4,), 0.25, dtype=torch.float64)
    catalogue = catalogue_softmax.catalogue_of(rows, items=6, views=4)
    catalogue_softmax.contrastive(views, own, catalogue, shares, temperature=0.5).backward()
    logits = normalize(views, dim=1) @ normalize(dense, dim=1).T / 0.5
    logits.logsumexp(dim=1).mean().backward()
    return rows.grad, dense.grad


def test_gradient_of_rows_without_a_direction_is_that_of_normalize(ranks):
    ((found, expected),) = ranks(1, short_rows)
    assert found.isfinite().all()
    for row in range(6):
        assert relative_error(found[row], expected[row]) < 1e-9, row


def with_kept(group: Group, kept_bytes: int) -> dict[str, torch.Tensor]:
    """How many exponentials are made when `kept_bytes` of tiles are kept, and the gradients."""
    made = 0
    exponentials = softmax_sweep._exponentials

    def counted(*arguments, **named):
        nonlocal made
        made += 1
        exponentials(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(softmax_sweep.SIZES, "cpu", softmax_sweep.SIZES["cpu"]._replace(kept_bytes=kept_bytes))
        patch.setattr(softmax_sweep, "_exponentials", counted)
        found = sharded(group, CASES[2])
    return found | {"made": torch.tensor(made)}


def test_tiles_beyond_the_bound_are_made_again_and_change_no_bit(ranks):
    """130 items and 8 views in tiles of 7 × 3: 57 tiles, 19 a block, of 84 bytes but at the edges."""
    found = {kept: ranks(1, with_kept, kept)[0] for kept in (0, 10 * 84, 2**20)}
    assert found[2**20].pop("made") == 57
    assert found[0].pop("made") == 2 * 57
    assert found[10 * 84].pop("made") == 2 * 57 - 3 * 10
    for kept in (0, 10 * 84):
        for name, value in found[2**20].items():
            assert torch.equal(found[kept][name], value), (kept, name)


@pytest.mark.parametrize("temperature", [1 / 39, 1 / 41, 0.01])
def test_exponents_near_the_bounds_of_float32_are_shifted(ranks, temperature):
    """Views that point at their item, and away from it; e^100 itself would not fit."""
    assert (softmax_sweep.shift_of(temperature) > 0) == (temperature < 1 / 40)
    found = ranks(1, towards_and_away, temperature)[0]
    assert found["value"].isfinite().all()
    dense, views = found["table"].double().requires_grad_(), found["given"].double().requires_grad_()
    expected = reference.contrastive(views, torch.arange(23), dense, temperature)
    expected.backward()
    # An exponent of 100 is rounded to 4e-6, and so is what it is a power of. Measured 9e-7.
    assert relative_error(found["value"], expected[None]) < 1e-5
    assert relative_error(found["views"], views.grad) < 1e-5
    assert relative_error(found["rows"], dense.grad) < 1e-5


def towards_and_away(group: Group, temperature: float) -> dict[str, torch.Tensor]:
    table, _, _ = matrices(23, 1)
    given = table * torch.tensor([1.0, -1.0]).repeat(12)[:23, None]
    views, rows = given.clone().requires_grad_(), table.clone().requires_grad_()
    catalogue = catalogue_softmax.catalogue_of(rows, items=23, views=23)
    value = catalogue_softmax.contrastive(views, rows, catalogue, torch.full((23,), 1 / 23), temperature=temperature)
    value.backward()
    return {"value": value.detach()[None], "views": views.grad, "rows": rows.grad, "table": table, "given": given}


def in_float64(group: Group, items: int, batch: int, plan: str) -> dict[str, torch.Tensor]:
    table, views, positives = (x.double() if x.is_floating_point() else x for x in matrices(items, batch))
    per_rank = batch // group.world_size
    own = slice(group.rank * per_rank, (group.rank + 1) * per_rank)
    rows = table[slice(*row_span(items, group.rank, group.world_size))].clone().requires_grad_()
    generated = views[own].clone().requires_grad_()
    embeddings = table[positives[own]].clone().requires_grad_()
    shares = torch.full((per_rank,), group.world_size / batch, dtype=torch.float64)
    catalogue = catalogue_softmax.catalogue_of(rows, items=items, views=views_of(plan, items))
    value = catalogue_softmax.contrastive(generated, embeddings, catalogue, shares, temperature=0.5)
    value.backward()
    return {"value": value.detach()[None], "views": generated.grad, "own": embeddings.grad, "rows": rows.grad}


@pytest.mark.parametrize("plan", ["spread", "gathered"])
def test_in_float64_the_gradients_over_four_ranks_are_the_dense_ones_to_1e_9(ranks, plan):
    items, batch = 130, 12
    results = ranks(4, in_float64, items, batch, plan)
    found = {name: torch.cat([result[name] for result in results]) for name in results[0]}
    table, views, positives = matrices(items, batch)
    dense, dense_views = table.double().requires_grad_(), views.double().requires_grad_()
    expected = reference.contrastive(dense_views, positives, dense, 0.5)
    expected.backward()
    rows = found["rows"].index_add(0, positives, found["own"] / 4)
    errors = [
        relative_error(found["value"].mean(), expected),
        relative_error(found["views"] / 4, dense_views.grad),
        relative_error(rows, dense.grad),
    ]
    assert max(errors) <= 1e-9, errors
    assert relative_error(rows * 1.00001, dense.grad) > 1e-9, "the control"


def estimates(group: Group, items: int, batch: int, counts: tuple[int, ...], repeats: int) -> torch.Tensor:
    """The sampled term [counts, repeats], each from a draw of its own."""
    table, views, positives = matrices(items, batch)
    shares = torch.full((batch,), 1 / batch)
    found = torch.empty(len(counts), repeats)
    for row, count in enumerate(counts):
        for repeat in range(repeats):
            drawn = integers(key_for("test", count, repeat), torch.arange(count), items)
            catalogue = catalogue_softmax.catalogue_of_samples(table[drawn], items=items, samples_of_all_ranks=count)
            found[row, repeat] = catalogue_softmax.contrastive(
                views, table[positives], catalogue, shares, temperature=0.3
            )
    return found


def test_the_bias_of_the_sampled_term_shrinks_as_samples_grow(ranks):
    """E ln(mean) lies below ln E by about the relative variance over 2 S: a quarter with four times the samples."""
    items, batch, counts, repeats = 130, 8, (4, 16, 64, 256), 2000
    found = ranks(1, estimates, items, batch, counts, repeats)[0].double()
    table, views, positives = (x.double() if x.is_floating_point() else x for x in matrices(items, batch))
    exact = float(reference.contrastive(views, positives, table, 0.3))
    bias = (found.mean(dim=1) - exact).tolist()
    error = (found.std(dim=1) / repeats**0.5).tolist()
    spread = found.std(dim=1).tolist()
    assert all(value < 3 * deviation for value, deviation in zip(bias, error, strict=True)), "it underestimates"
    assert bias[0] < -0.1, "few samples are far off"
    for fewer, more, deviation in zip(bias[:-1], bias[1:], error[1:], strict=True):
        assert 0.15 * fewer > more - 3 * deviation, (bias, error)
        assert 0.45 * fewer < more + 3 * deviation, (bias, error)
    assert all(more < 0.6 * fewer for fewer, more in pairwise(spread)), "and it scatters less"


def of_one_item(group: Group) -> float:
    table = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    catalogue = catalogue_softmax.catalogue_of(table, items=1, views=1)
    return float(catalogue_softmax.contrastive(-table, table, catalogue, torch.ones(1), temperature=0.5))


def test_the_own_row_counts_in_the_denominator(ranks):
    """One item and one view: the softmax over it alone is 1, whatever the cosine."""
    assert ranks(1, of_one_item)[0] == pytest.approx(0, abs=1e-6)


def differentiated_twice(group: Group) -> str:
    table, views, positives = matrices(23, 12)
    shares = torch.full((12,), 1 / 12)
    catalogue = catalogue_softmax.catalogue_of(table.requires_grad_(), items=23, views=12)
    value = catalogue_softmax.contrastive(views, table[positives], catalogue, shares, temperature=0.5)
    value.backward(retain_graph=True)
    try:
        value.backward()
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_second_backward_pass_is_refused(ranks):
    assert "twice" in ranks(1, differentiated_twice)[0]


@pytest.mark.parametrize(
    ("rows", "of_tile"), [(0, 1), (1, 1), (1024, 1024), (1500, 1500), (1600, 800), (2420, 1210), (7050, 1008)]
)
def test_tiles_of_rows_are_even(rows, of_tile):
    assert softmax_sweep._rows_of_tile(torch.empty(rows, 1)) == of_tile
    assert rows % of_tile == 0 or rows % of_tile > of_tile // 2


@pytest.mark.parametrize(("rows", "views"), [(1, 1024), (2420, 1024), (7050, 512), (53_000, 256), (10_000_000, 256)])
def test_blocks_shrink_as_rows_grow(rows, views):
    assert softmax_sweep._views_of_block(rows, torch.empty(1)) == views


def test_a_gpu_has_few_and_large_tiles(monkeypatch):
    """Each is a dozen launches: 125,000 rows, a rank's of a million on 8, and 8,192 views."""
    monkeypatch.setitem(softmax_sweep.SIZES, "cpu", softmax_sweep.SIZES["cuda"])
    rows, views = torch.empty(125_000, 1), torch.empty(8192, 1)
    blocks = views.shape[0] // softmax_sweep._views_of_block(rows.shape[0], views)
    assert blocks * -(-rows.shape[0] // softmax_sweep._rows_of_tile(rows)) == 8 * 4
