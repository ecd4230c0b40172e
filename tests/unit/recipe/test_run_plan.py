"""What a run would hold, from its configuration and a manifest alone; and the command that prints it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from infodcl_dist.base.config import load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.machine import GIB, Memory
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.data.dataset import FORMAT_VERSION, MANIFEST
from infodcl_dist.graph.propagation_plan import PROCESS_BYTES
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.run_plan import RunPlan, plan_run

USERS, ITEMS, PAIRS = 1003, 502, 9000


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one, plans are of the CPU all the same, unless a test asks for GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder with nothing but a manifest."""
    counts = {"train": PAIRS, "valid": 10, "test": 10}
    manifest: dict[str, Any] = {"format_version": FORMAT_VERSION, "name": "planned", "users": USERS, "items": ITEMS}
    manifest |= {"counts": counts, "removed": {}, "source": {}, "settings": {}, "files": {"train.parquet": "none"}}
    manifest["features"] = {"text": {"file": "text.npy", "width": 300, "dtype": "float32"}}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def planned(
    dataset: Path,
    world_size: int,
    *overrides: str,
    memory_gb: float | None = 8.0,
    gpu_memory_gb: float | None = None,
) -> RunPlan:
    from infodcl_dist.data.dataset import read_manifest

    config = load_config(RunConfig, None, [f"data.path={dataset}", "run.path=unused", *overrides])
    return plan_run(
        config,
        read_manifest(dataset),
        world_size=world_size,
        local_world_size=world_size,
        memory_gb=memory_gb,
        gpu_memory_gb=gpu_memory_gb,
    )


@pytest.mark.parametrize(
    ("overrides", "rows", "columns", "copies"),
    [
        ([], [251, 126], 64, 4),  # Adam: weights, gradient, two moments
        (["tables.optimizer=sgd"], [251, 126], 64, 2),
        (["tables.sharding=table_wise"], [1003, 502], 64, 4),
        (["tables.sharding=column_wise"], [1003, 502], 16, 4),
        (["tables.kernel=fused", "tables.optimizer=adagrad", "loss.negatives=sampled"], [251, 126], 64, 2),
    ],
)
def test_tables_on_four_ranks(dataset: Path, overrides: list[str], rows: list[int], columns: int, copies: int) -> None:
    found = planned(dataset, 4, *overrides)
    assert [part.rows for part in found.tables] == rows
    for part, count in zip(found.tables, rows, strict=True):
        assert part.columns == columns
        assert part.weight_bytes == count * columns * 4
        assert part.training_bytes == copies * part.weight_bytes
    assert found.fits
    assert found.propagation_plan == "by_dimension"


@pytest.mark.parametrize(
    ("overrides", "is_whole"),
    [
        ([], True),
        (["loss.negatives=sampled"], False),
        (["model.name=mf"], False),
        (["model.name=lightgcn"], True),
        (["tables.kernel=fused", "tables.optimizer=adagrad", "loss.negatives=sampled"], False),
    ],
)
def test_a_gradient_of_every_row_is_counted_beside_that_of_the_lookup(
    dataset: Path, overrides: list[str], is_whole: bool
) -> None:
    found = planned(dataset, 4, *overrides)
    whole = found.training.get("a gradient of whole tables, before it is added")
    assert whole == (Memory(host=(251 + 126) * 64 * 4) if is_whole else None)


def test_one_number_a_row_is_counted(dataset: Path) -> None:
    found = planned(dataset, 1, "tables.optimizer=rowwise_adagrad")
    assert found.tables[0].training_bytes == USERS * (2 * 64 + 1) * 4


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ([], ITEMS),  # 2 × 2,000 views are more
        (["train.global_batch_size=100"], 2 * 100),
        (["train.global_batch_size=100", "loss.user_contrastive=1"], 3 * 100),
        (["loss.negatives=sampled"], 2 * 2000),
    ],
)
def test_contrastive_terms_gather_views_or_items(dataset: Path, overrides: list[str], rows: int) -> None:
    assert planned(dataset, 4, *overrides).training["gathered for contrastive terms"].host == 2 * rows * 64 * 4


@pytest.mark.parametrize(
    ("overrides", "arrays"),
    [([], 2 * 36), (["model.channels=[text]"], 36), (["model.psnet.reencoder=transformer"], 2 * 64)],
)
def test_channels_keep_arrays_of_the_ranks_batch(dataset: Path, overrides: list[str], arrays: int) -> None:
    found = planned(dataset, 4, "train.global_batch_size=2001", *overrides).training
    assert found["what the channels keep for gradients"].host == arrays * 501 * 64 * 4
    assert "what the channels keep for gradients" not in planned(dataset, 4, "model.name=lightgcn").training


def test_no_contrastive_term_gathers_nothing(dataset: Path) -> None:
    assert "gathered for contrastive terms" not in planned(dataset, 4, "loss.contrastive=0").training


def test_a_channels_rows_are_as_wide_as_its_feature(dataset: Path) -> None:
    narrow = planned(dataset, 2, "model.channels=[knowledge]").training["batches"].host
    wide = planned(dataset, 2, "model.channels=[knowledge,text]").training["batches"].host
    assert wide - narrow == 3 * 1000 * 300 * 4, "three batches in flight"


@pytest.mark.parametrize(
    ("sharding", "columns"), [("row_wise", 3 * 64), ("table_wise", 2 * 64), ("column_wise", 3 * 16)]
)
def test_a_rank_answers_the_global_batch(dataset: Path, sharding: str, columns: int) -> None:
    """Once, and on gloo a second time; a rank alone answers nobody."""

    def of_batches(world_size: int, gpu_memory_gb: float | None) -> int:
        keys = ("model.name=mf", "train.global_batch_size=800", f"tables.sharding={sharding}")
        taken = planned(dataset, world_size, *keys, gpu_memory_gb=gpu_memory_gb).training["batches"]
        return taken.host + taken.gpu

    own = 2 * 3 * 64 * 4 + 3 * 3 * 8  # a rank's rows and gradients, ids of three batches; bytes an example
    assert of_batches(1, None) == 800 * own
    assert of_batches(4, 40.0) == 200 * own + 800 * columns * 4
    assert of_batches(4, None) == 200 * own + 2 * 800 * columns * 4


def test_what_does_not_fit_is_said(dataset: Path) -> None:
    found = planned(dataset, 2, memory_gb=0.1)
    assert not found.fits
    assert found.propagation_plan is None
    assert planned(dataset, 2).training_bytes == found.training_bytes
    assert found.training_bytes == Memory(host=sum(part.host for part in found.training.values()))


def test_a_gpu_holds_what_is_computed_with_and_the_host_what_is_saved(dataset: Path) -> None:
    """Each side is enough or too little by itself."""
    host, gpu = planned(dataset, 2), planned(dataset, 2, gpu_memory_gb=2)
    assert (host.gpu_bytes, gpu.gpu_bytes) == (None, 2 * GIB)
    saved, tables = "a checkpoint's copy, while it is written", "tables, gradients, optimizer state"
    assert gpu.training[tables] == Memory(gpu=host.training[tables].host)
    assert gpu.training[saved] == host.training[saved]
    assert gpu.training["graph (all of it on a GPU)"] == Memory(gpu=2 * PAIRS * 4)
    assert gpu.training_bytes.host == PROCESS_BYTES + gpu.training[saved].host
    copied = 2000 * 3 * 64 * 4  # by gloo
    assert gpu.training_bytes.gpu == host.training_bytes.host - gpu.training[saved].host + PAIRS * 4 - copied
    assert gpu.fits
    assert gpu.propagation_plan == "by_dimension"
    for memory_gb, gpu_memory_gb, taken in ((0.1, 2, "by_dimension"), (8, 0.1, None)):
        found = planned(dataset, 2, memory_gb=memory_gb, gpu_memory_gb=gpu_memory_gb)
        assert (found.fits, found.propagation_plan) == (False, taken)


FUSED = ["tables.kernel=fused", "tables.optimizer=rowwise_adagrad", "loss.negatives=sampled"]


@pytest.mark.parametrize(
    ("channels", "is_planned"), [("[knowledge]", True), ("[text,facts]", True), ("[text]", False), ("", False)]
)
def test_pre_training_is_planned_where_a_channel_is_to_be_made(dataset: Path, channels: str, is_planned: bool) -> None:
    manifest = json.loads((dataset / MANIFEST).read_text())
    manifest["item_graphs"] = {"facts": {"attributes": 3, "pairs": 9}}
    (dataset / MANIFEST).write_text(json.dumps(manifest))
    asked = f"model.channels={channels}" if channels else "model.name=mf"
    found = planned(dataset, 4, asked).pretraining
    assert (found is not None) == is_planned
    if found is not None:
        assert "propagation in training" in found.training, "it is LightGCN"
        assert found.pretraining is None


def test_a_run_fits_only_if_its_pre_training_does(dataset: Path) -> None:
    """On fused tables the run holds less than pre-training, which takes dense ones with Adam, at its own width."""
    keys = [*FUSED, "metadata.dim=4096", "train.global_batch_size=64"]
    found = planned(dataset, 2, *keys, memory_gb=2.5)
    before = found.pretraining
    assert before is not None
    assert [part.columns for part in before.tables] == [4096, 4096]
    weights = (-(-USERS // 2) + -(-ITEMS // 2)) * 4096 * 4
    assert before.training["tables, gradients, optimizer state"] == Memory(host=4 * weights)
    assert (found.itself_fits, before.fits, found.fits) == (True, True, True)
    found = planned(dataset, 2, *keys, memory_gb=1.3)
    assert found.pretraining is not None
    assert (found.itself_fits, found.pretraining.fits, found.fits) == (True, False, False)
    values = found.as_values()
    assert (values["fits"], values["pretraining"]["fits"]) == (False, False)


@pytest.mark.parametrize("made", ["channels", "embeddings"])
def test_what_was_made_beforehand_is_not_planned(dataset: Path, made: str) -> None:
    from infodcl_dist.data.dataset import Dataset, read_manifest
    from infodcl_dist.recipe.metadata import channel_folder, embeddings_folder

    config = load_config(RunConfig, None, [f"data.path={dataset}", "run.path=unused"])
    opened = Dataset(dataset, read_manifest(dataset))
    folders = [channel_folder(config, opened, name) for name in config.model.channels]
    for folder in folders if made == "channels" else [embeddings_folder(config, opened)]:
        assert planned(dataset, 2).pretraining is not None
        folder.mkdir(parents=True)
    assert planned(dataset, 2).pretraining is None
    assert planned(dataset, 2, "metadata.dim=32").pretraining is not None, "other metadata"


def test_the_command_prints_pre_training_as_a_part(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"data.path={dataset}", "run.path=unused", *FUSED, "metadata.dim=4096", "metadata.epochs=7"]
    keys += ["train.global_batch_size=64"]
    arguments = ["plan", "--world", "2", "--memory-gb", "1.3", *keys]
    assert run(infodcl_dist, arguments) == 0
    run_part, before = capsys.readouterr().out.split("before it, pre-training for the made channels, at most 7 epochs")
    assert "fit into" not in run_part
    assert before.splitlines()[-2:] == [
        "pre-training does not fit into 665.6 MiB a rank",
        "the run fits into 665.6 MiB a rank",
    ]
    assert "an epoch of 5 steps" in before, "of 2,048 examples"
    assert run(infodcl_dist, [*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pretraining"]["prediction_on_gpus"]["steps"] == 5
    assert not found["fits"]
    assert run(infodcl_dist, [*arguments, "model.channels=[text]"]) == 0
    assert "pre-training" not in capsys.readouterr().out


def test_a_runs_pass_out_of_core_loads_its_results(dataset: Path) -> None:
    (out,) = (estimate for estimate in planned(dataset, 2).propagation if estimate.plan == "out_of_core")
    source, offsets, tiles, own_rows = USERS * 32 * 4, 20 * USERS, 2 * 2**20, -(-USERS // 2) + -(-ITEMS // 2)
    assert out.rank_bytes == PROCESS_BYTES + source + offsets + tiles + own_rows * 64 * 4


def test_managed_tables_lie_on_the_host(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 10 * GIB))
    found = planned(dataset, 2, "tables.kernel=fused_uvm_caching", "loss.negatives=sampled", "tables.optimizer=adagrad")
    assert found.gpu_bytes == 8 * GIB
    weights = (-(-USERS // 2) + -(-ITEMS // 2)) * 64 * 4
    expected = Memory(host=2 * weights, gpu=weights // 5)
    assert found.training["tables, gradients, optimizer state"] == expected
    assert found.propagation_plan == "by_dimension"


@pytest.mark.parametrize(
    "keys",
    [
        ["tables.kernel=fused_uvm_caching", "loss.negatives=sampled"],
        ["tables.kernel=fused_uvm_caching", "loss.negatives=sampled", "tables.sharding=auto"],
        ["tables.kernel=fused", "loss.negatives=sampled"],
    ],
)
def test_gpus_are_planned_where_there_is_none(
    dataset: Path, keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--world", "8", f"data.path={dataset}", "run.path=unused", *keys]
    assert run(infodcl_dist, [*arguments, "--gpu-memory-gb", "80", "--memory-gb", "64"]) == 0
    assert "fits into 80.00 GiB of its GPU and 8.00 GiB of its host a rank" in capsys.readouterr().out
    assert run(infodcl_dist, arguments) == 2
    assert capsys.readouterr().err.endswith(", or give --gpu-memory-gb to plan for GPUs\n")


@pytest.mark.parametrize("key", ["model.dim", "metadata.dim"])
def test_a_width_that_a_gpu_cannot_read_is_refused(dataset: Path, key: str) -> None:
    assert planned(dataset, 2, f"{key}=6").fits
    with pytest.raises(UserError, match=f"^{key}: a GPU reads rows in vectors of 4, and 6 is no multiple; set {key}=8"):
        planned(dataset, 2, f"{key}=6", gpu_memory_gb=2)


def test_the_command_and_its_json(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--world", "4", "--memory-gb", "8", f"data.path={dataset}", "run.path=unused"]
    before = dict(os.environ)
    assert run(infodcl_dist, arguments) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("row_wise", "by_dimension", "out_of_core", "taken", "fits into 2.00 GiB"))
    assert run(infodcl_dist, [*arguments, "--gpu-memory-gb", "40"]) == 0
    assert "fits into 40.00 GiB of its GPU and 2.00 GiB of its host a rank" in capsys.readouterr().out
    assert run(infodcl_dist, [*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    predicted = found.pop("prediction_on_gpus")
    assert found["pretraining"].pop("prediction_on_gpus")["steps"] == 5
    assert predicted["step_s"] == pytest.approx(sum(predicted["seconds"].values()))
    assert predicted["epoch_s"] == pytest.approx(predicted["steps"] * predicted["step_s"])
    assert found == planned(dataset, 4).as_values()
    assert (found["world_size"], found["propagation_plan"], found["fits"]) == (4, "by_dimension", True)
    assert dict(os.environ) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [MANIFEST], "nothing is made"


@pytest.mark.parametrize(("model", "propagates"), [("mf", False), ("lightgcn", True)])
def test_a_predicted_step_is_the_models_own(
    dataset: Path, model: str, propagates: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--world", "8", "--json", f"data.path={dataset}", "run.path=unused", f"model.name={model}"]
    assert run(infodcl_dist, arguments) == 0
    assert ("propagation" in json.loads(capsys.readouterr().out)["prediction_on_gpus"]["seconds"]) == propagates


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--world", "2", "--local-world", "3"], "--local-world"),
        *((["--world", "2", "--memory-gb", size], "--memory-gb: ") for size in ("0", "nan", "inf", "1e300")),
        (["--world", "2", "--gpu-memory-gb", "0"], "--gpu-memory-gb: 0.0 is no GPU's memory"),
        (["--world", "2", "model.channels=[image]"], "model.channels"),
        (["--world", "2", "model.dim=0"], "model.dim"),
        (["--world", "2", "data.path=nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    dataset: Path, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(infodcl_dist, ["plan", f"data.path={dataset}", "run.path=unused", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert word in line
