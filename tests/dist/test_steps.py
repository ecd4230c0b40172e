"""Whole training steps at 1, 2 and 4 ranks against the dense reference: terms, gradients, tables, channel weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from graphs import build_bipartite
from reference import infodcl as reference
from reference.weights import relative_error, scatter_weights
from torch import Tensor

from infodcl_dist.base.random import integers, key_for, normal, uniform
from infodcl_dist.data.batches import Batches
from infodcl_dist.data.item_rows import ItemRows
from infodcl_dist.data.rows import compress
from infodcl_dist.parallel.group import Group
from infodcl_dist.parallel.tables import Tables
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.model import build_step, build_trained_channels
from infodcl_dist.train.step import Step

# Two channels make up to 24 views of a batch, less than there are items; users make them more. So the catalogue stays
# spread in most cases, and is gathered in the others.
USERS, ITEMS, WIDTH, TIMESTEPS, SEED = 13, 29, 8, 30, 11
# 27 pairs in batches of 11: 11, 11 and 5. Over 2 ranks every batch is padded; over 4 the last one leaves two ranks with
# padding alone, and its 5 rows are fewer than D.
PAIRS, BATCH, STEPS = 27, 11, 3
METADATA = {"knowledge": 6, "image": 10}

# Float32 sums of some 10 to 200 terms in another order than the reference's float64. Measured 3e-7.
TERMS = 2e-6
# Gradients pass through the SVD's, see test_psnet.py. Measured 1e-6.
GRADIENTS = 2e-5
# Adam divides a gradient by its own size, so a weight moves by lr × (1 ± the gradient's relative error). Measured 1e-7
# of the largest weight for the tables. Some channel weights have gradients near Adam's ε of 1e-8, where rounding is up
# to a thousandth of lr = 0.01: measured 3e-5. (DeepSpeed's clipping, which is on unless switched off: 7e-3.)
TABLES, CHANNELS = 2e-6, 1e-4

LOSS = {"bpr": 0.6, "contrastive": 0.3, "balance": 0.2, "regularization": 0.1, "temperature": 0.3}
RELEASE = {
    "loss": LOSS | {"balance_norm": "l2_squared", "reconstruction": 0.9},
    "psnet": {"rank": 3, "reencoder": "transformer", "residual": "release"},
    "diffusion": {"denoiser": "mlp2", "schedule": "cosine"},
}


@dataclass(frozen=True)
class Case:
    """A model to train, and what the reference is told of it."""

    name: str
    loss: dict[str, Any]
    psnet: dict[str, Any]
    diffusion: dict[str, Any]
    ablation: tuple[str, ...] = ()
    gaps: tuple[int, ...] = ()  # items without an image
    tables: dict[str, Any] = field(default_factory=dict)


CASES = {
    "infodcl": Case("infodcl", LOSS, {}, {}),
    "infodcl as released": Case("infodcl", **RELEASE),
    "infodcl without psnet": Case("infodcl", LOSS, {}, {}, ("psnet", "balance_loss")),
    "infodcl with gaps": Case("infodcl", LOSS, {}, {}, gaps=(0, 3, 4, 5, 9, 12, 17)),
    "infodcl guided": Case("infodcl", LOSS, {}, {"unconditional": 0.3}, gaps=(0, 3, 4, 5, 9, 12, 17)),
    "infodcl guided, without psnet": Case("infodcl", LOSS, {}, {"unconditional": 0.3}, ("psnet",), gaps=(0, 3, 4)),
    "infodcl with users": Case("infodcl", LOSS | {"user_contrastive": 0.7, "user_temperature": 0.25}, {}, {}),
    "infodcl without views": Case("infodcl", LOSS | {"contrastive": 0.0}, {}, {}),
    "infodcl of the user term": Case(
        "infodcl",
        LOSS
        | dict.fromkeys(("contrastive", "reconstruction", "balance"), 0.0)
        | {"user_contrastive": 0.7, "user_temperature": 0.25},
        {},
        {},
    ),
    "lightgcn": Case("lightgcn", LOSS, {}, {}),
    "mf": Case("mf", LOSS, {}, {}),
}


def run_config(case: Case) -> RunConfig:
    values = {
        "data": {"path": "none"},
        "run": {"path": "none", "seed": SEED},
        "model": {
            "name": case.name,
            "channels": tuple(METADATA),
            "dim": WIDTH,
            "timesteps": TIMESTEPS,
            "gcn_layers": 2,
            "psnet": case.psnet,
            "diffusion": case.diffusion,
        },
        "ablation": case.ablation,
        "loss": case.loss,
        "tables": case.tables,
        "train": {"learning_rate": 0.01, "global_batch_size": BATCH},
    }
    return RunConfig.model_validate(values)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Users and items of distinct sorted pairs; user 0 and item 0 have none."""
    generator = np.random.default_rng(2)
    keys = np.sort(generator.choice((USERS - 1) * (ITEMS - 1), size=PAIRS, replace=False))
    return (1 + keys // (ITEMS - 1)).astype(np.int32), (1 + keys % (ITEMS - 1)).astype(np.int32)


def metadata(case: Case) -> dict[str, ItemRows]:
    if case.name != "infodcl":
        return {}
    generator = np.random.default_rng(3)
    made = {name: generator.normal(size=(ITEMS, width)).astype(np.float32) for name, width in METADATA.items()}
    made["image"][list(case.gaps)] = np.nan
    return {name: ItemRows(rows, missing=len(case.gaps) * (name == "image")) for name, rows in made.items()}


def batches(case: Case, rank: int, world_size: int) -> Batches:
    return Batches(
        compress(*pairs(), USERS),
        items=ITEMS,
        global_batch_size=BATCH,
        seed=SEED,
        metadata=metadata(case),
        rank=rank,
        world_size=world_size,
    )


def build(group: Group, case: Case) -> tuple[Step, Batches]:
    config = run_config(case)
    tables = Tables(
        users=USERS,
        items=ITEMS,
        dim=WIDTH,
        config=config.tables,
        seed=SEED,
        group=group,
        samples_per_example=config.samples_per_example,
    )
    channels = build_trained_channels(config, metadata(case))
    if channels is not None:
        scatter_weights(channels, seed=4)
    graph = build_bipartite(*pairs(), USERS, ITEMS)
    made = batches(case, group.rank, group.world_size)
    step = build_step(config, tables=tables, channels=channels, graph=graph, batch_per_rank=made.per_rank, group=group)
    return step, made


def weights_of(step: Step) -> dict[str, Tensor]:
    """This rank's rows under `user` and `item`, and the channels' weights.

    The rows as `Tables` gives them: what a kernel's cache holds lies in no shard yet.
    """
    channels = {} if step.engine is None else dict(step.engine.module.named_parameters())
    with torch.no_grad():
        named = {name: step.tables.rows(name) for name in ("user", "item")} | channels
        return {name: rows.clone() for name, rows in named.items()}


def gradients_of(step: Step) -> dict[str, Tensor]:
    channels = {} if step.engine is None else dict(step.engine.module.named_parameters())
    named = {"user": step.tables.user_rows, "item": step.tables.item_rows, **channels}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named.items()}


def train(group: Group, case: Case) -> dict[str, Any]:
    """Weights before and after each step with its terms, on this rank."""
    step, made = build(group, case)
    weights, terms = [weights_of(step)], []
    for losses in step.run(made.epoch(1)):
        terms.append({name: float(value) for name, value in losses.items()})
        weights.append(weights_of(step))
    return {"weights": weights, "terms": terms, "padding": [int((b.weights == 0).sum()) for b in made.epoch(1)]}


def differentiate(group: Group, case: Case) -> list[dict[str, Tensor]]:
    """Gradients of the first and of the last, uneven batch at the initial weights, as the optimizers see them."""
    found = []
    for number in (0, STEPS - 1):
        step, made = build(group, case)
        batch, objective = made.batch(1, number), step.objective
        rows = step.tables.lookup(batch.users, batch.positives, batch.negatives, objective.samples(batch))
        total = objective.losses(batch, rows)["loss"]
        if step.engine is not None:
            step.engine.backward(total)
        else:
            total.backward()
        found.append(gradients_of(step))
    return found


def examples(case: Case, number: int) -> reference.Examples:
    """The global batch, as one rank holds it, without its padding."""
    batch = batches(case, 0, 1).batch(1, number)
    real = batch.weights > 0
    positions = batch.positions[real]
    names = list(batch.metadata)
    count, unconditional = run_config(case).samples_per_example, run_config(case).model.diffusion.unconditional
    drawn = (positions[:, None] * count + torch.arange(count)).flatten()
    return reference.Examples(
        users=batch.users[real],
        positives=batch.positives[real],
        negatives=batch.negatives[real],
        metadata={name: batch.metadata[name][real] for name in names},
        noise={name: normal(key_for(SEED, "noise", name, 1), positions, WIDTH) for name in names},
        steps={name: integers(key_for(SEED, "timestep", name, 1), positions, TIMESTEPS) for name in names},
        conditioned={name: uniform(key_for(SEED, "condition", name, 1), positions) >= unconditional for name in names},
        samples=integers(key_for(SEED, "sample", 1), drawn, ITEMS) if count > 0 else None,
    )


def choices(case: Case) -> reference.Choices:
    weights = {name: case.loss[name] for name in ("bpr", "contrastive", "balance", "regularization")}
    weights["reconstruction"] = case.loss.get("reconstruction", 1 - case.loss["bpr"])
    if "balance_loss" in case.ablation:
        weights["balance"] = 0.0
    if "user_contrastive" in case.loss:
        weights["user_contrastive"] = case.loss["user_contrastive"]
    return reference.Choices(
        channels=tuple(metadata(case)),
        user_temperature=case.loss.get("user_temperature"),
        timesteps=TIMESTEPS,
        ablation=case.ablation,
        temperature=case.loss["temperature"],
        balance_norm=case.loss.get("balance_norm", "l2"),
        contrastive_gradient=case.loss.get("contrastive_gradient", "both"),
        training_layers=2 if case.name == "lightgcn" else 0,
        learning_rate=0.01,
        weights=weights,
        **case.psnet,
        **case.diffusion,
    )


def adjacency(case: Case) -> Tensor | None:
    if case.name != "lightgcn":
        return None
    users, items = map(torch.from_numpy, pairs())
    return reference.adjacency(users.long(), items.long(), USERS, ITEMS)


def gathered(per_rank: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tables from the ranks' shards; of the channels rank 0's, which the others' must equal bit for bit."""
    whole = {name: torch.cat([part[name] for part in per_rank]) for name in ("user", "item")}
    for name, value in per_rank[0].items():
        if name not in whole:
            assert all(torch.equal(part[name], value) for part in per_rank), f"{name} differs between ranks"
            whole[name] = value
    return whole


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    assert set(found) == set(expected)
    return max((relative_error(found[name], expected[name]), name) for name in expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_three_steps_equal_the_dense_reference(ranks, name, world_size):
    case = CASES[name]
    results = ranks(world_size, train, case)
    assert [sum(result["padding"][i] for result in results) for i in range(STEPS)] == {
        1: [0, 0, 6],
        2: [1, 1, 7],
        4: [1, 1, 7],
    }[world_size]
    w = {name: value.double() for name, value in gathered([result["weights"][0] for result in results]).items()}
    assert w["user"].shape == (USERS, WIDTH)
    assert w["item"].shape == (ITEMS, WIDTH)
    adam = reference.Adam(learning_rate=0.01)
    visited = 0
    for number in range(STEPS):
        w, expected, _ = reference.training_step(w, adam, examples(case, number), choices(case), adjacency(case))
        terms = [result["terms"][number] for result in results]
        if case.loss["contrastive"] == 0:
            del expected["contrastive"]  # what weighs nothing is left out
        assert set(terms[0]) == set(expected)
        for term, value in expected.items():
            mean = sum(of_rank[term] for of_rank in terms) / world_size
            assert mean == pytest.approx(value, rel=TERMS), (number, term)
            visited += 1
        found = gathered([result["weights"][number + 1] for result in results])
        error, where = largest_error(found, w)
        assert error < CHANNELS, (number, where)
        for table in ("user", "item"):
            assert relative_error(found[table], w[table]) < TABLES, (number, table)
    is_infodcl, weighs_views = case.name == "infodcl", case.loss["contrastive"] > 0
    assert visited == STEPS * (3 + 2 * is_infodcl + (is_infodcl and weighs_views) + ("user_contrastive" in case.loss))


def test_padding_looks_up_no_row_that_the_batch_does_not():
    case, visited = CASES["infodcl"], 0
    for world_size in (1, 2, 4):
        for number in range(STEPS):
            parts = [batches(case, rank, world_size).batch(1, number) for rank in range(world_size)]
            seen: dict[bool, set[tuple[int, ...]]] = {True: set(), False: set()}
            for part in parts:
                rows = torch.stack([part.positions, part.users, part.positives, part.negatives], dim=1)
                for ids, weight in zip(rows.tolist(), part.weights.tolist(), strict=True):
                    seen[weight > 0].add(tuple(ids))
            assert seen[False] <= seen[True]
            assert len(seen[True]) == min(BATCH, PAIRS - number * BATCH), "no example twice"
            visited += len(seen[False])
    assert visited == 1 + 3 + 3


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("negatives", ["catalogue", "sampled"])
@pytest.mark.parametrize("side", ["views", "table"])
def test_the_contrastive_gradient_reaches_one_side_alone(ranks, side, negatives, world_size):
    case = Case("infodcl", LOSS | {"contrastive_gradient": side, "negatives": negatives}, {}, {})
    start = gathered([result["weights"][0] for result in ranks(world_size, train, case)])
    w = {key: value.double() for key, value in start.items()}
    found = gathered([result[0] for result in ranks(world_size, differentiate, case)])
    batch, visited = examples(case, 0), 0
    for chosen, agrees in ((side, True), ("both", False), ({"views": "table", "table": "views"}[side], False)):
        c = reference.Choices(**(vars(choices(case)) | {"contrastive_gradient": chosen}))
        _, _, expected = reference.training_step(w, reference.Adam(0.01), batch, c)
        error, where = largest_error(found, expected)
        assert (error < GRADIENTS) is agrees, (chosen, error, where)
        visited += 1
    assert visited == 3


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_dense_reference(ranks, name, world_size):
    """Adam hides a gradient that is off by a factor; this does not."""
    case = CASES[name]
    start = gathered([result["weights"][0] for result in ranks(world_size, train, case)])
    w = {key: value.double() for key, value in start.items()}
    results = ranks(world_size, differentiate, case)
    for i, number in enumerate((0, STEPS - 1)):
        adam = reference.Adam(learning_rate=0.01)
        _, _, expected = reference.training_step(w, adam, examples(case, number), choices(case), adjacency(case))
        found = gathered([result[i] for result in results])
        error, where = largest_error(found, expected)
        assert error < GRADIENTS, (number, where)


def test_initial_weights_do_not_depend_on_the_world_size(ranks):
    """Also the proof that DeepSpeed's broadcast from rank 0 reaches no table."""
    case = CASES["infodcl"]
    alone, two, four = (gathered([r["weights"][0] for r in ranks(n, train, case)]) for n in (1, 2, 4))
    assert len(alone) == 2 + 2 * 33
    for name, value in alone.items():
        assert torch.equal(value, two[name]), name
        assert torch.equal(value, four[name]), name


@pytest.mark.parametrize("change", ["temperature", "a noise value", "a negative", "one weight"])
def test_the_control_a_small_change_of_the_reference_is_noticed(ranks, change):
    case = CASES["infodcl"]
    result = ranks(1, train, case)[0]
    w = {name: value.double() for name, value in result["weights"][0].items()}
    batch, chosen = examples(case, 0), choices(case)
    if change == "temperature":
        chosen = reference.Choices(**(vars(chosen) | {"temperature": 0.301}))
    elif change == "a noise value":
        batch.noise["image"][0, 0] += 0.01
    elif change == "a negative":
        batch.negatives[0] = (batch.negatives[0] + 1) % ITEMS
    else:
        w["image.psnet.project.weight"][0, 0] += 0.01
    _, expected, _ = reference.training_step(w, reference.Adam(0.01), batch, chosen)
    errors = [abs(result["terms"][0][term] / value - 1) for term, value in expected.items()]
    assert max(errors) > 2 * TERMS


def engine_facts(group: Group) -> dict[str, Any]:
    step, _ = build(group, CASES["infodcl"])
    tables = {id(p) for p in step.tables.parameters()} | {p.data_ptr() for p in step.tables.parameters()}
    inside = list(step.engine.module.named_parameters())
    optimized = [p for g in step.engine.optimizer.param_groups for p in g["params"]]
    return {
        "names": [name for name, _ in inside],
        "shared": [name for name, p in inside if id(p) in tables or p.data_ptr() in tables],
        "optimized tables": [p.shape for p in optimized if id(p) in tables or p.data_ptr() in tables],
        "optimized": sum(p.numel() for p in optimized) == sum(p.numel() for _, p in inside),
        "local rows": (step.tables.user_rows.shape[0], step.tables.item_rows.shape[0]),
    }


def test_the_engine_wraps_the_channels_and_no_table(ranks):
    for facts in ranks(2, engine_facts):
        assert len(facts["names"]) == 2 * 33
        assert all(name.startswith(tuple(METADATA)) for name in facts["names"])
        assert facts["shared"] == []
        assert facts["optimized tables"] == []
        assert facts["optimized"]
        assert facts["local rows"][0] < USERS
        assert facts["local rows"][1] < ITEMS
