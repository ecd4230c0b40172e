"""What a combination of tables cannot do is refused: key, reason, what works instead.

When the configuration is read, or, where it hangs on the device, on the ranks that train.
"""

import itertools
import re

import pytest
import torch

from infodcl_dist.base.config import as_values, load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.recipe.device import check_device, check_pretraining_device, check_reading_device

KEYS = ["data.path=none", "run.path=none"]
AXES = {
    "tables.kernel": ("dense", "fused", "fused_uvm_caching"),
    "tables.sharding": ("row_wise", "table_wise", "column_wise", "auto"),
    "tables.optimizer": ("adam", "adagrad", "rowwise_adagrad", "sgd"),
    "loss.negatives": ("catalogue", "sampled"),
    "model.name": ("infodcl", "lightgcn", "mf"),
    "model.dim": (64, 12, 6),
}
CASES = [  # where, what is asked for, and the whole answer
    (
        "cpu",
        ["tables.kernel=fused", "loss.negatives=sampled"],
        "tables.optimizer: adam has no fused kernel on a CPU; set tables.optimizer=adagrad or tables.kernel=dense",
    ),
    (
        "cpu",
        ["tables.kernel=fused_uvm_caching", "tables.optimizer=sgd", "loss.negatives=sampled"],
        "tables.kernel: fused_uvm_caching needs a CUDA device, and there is none; set tables.kernel=fused",
    ),
    (
        "cuda",
        ["tables.kernel=fused"],
        "tables.kernel: fused updates looked-up rows alone, and loss.negatives=catalogue moves every row; "
        "set loss.negatives=sampled or tables.kernel=dense",
    ),
    (
        "cuda",
        ["tables.kernel=fused_uvm_caching", "model.name=lightgcn"],
        "tables.kernel: fused_uvm_caching updates looked-up rows alone, and model.name=lightgcn moves every row; "
        "set tables.kernel=dense",
    ),
    (
        "cpu",
        ["tables.kernel=fused", "tables.optimizer=sgd", "model.name=mf", "model.dim=6"],
        "tables.kernel: fused needs rows of whole vectors of 4, and model.dim=6 is no multiple; "
        "set model.dim=8 or tables.kernel=dense",
    ),
    (
        "cpu",
        ["tables.sharding=column_wise", "model.dim=12"],
        "tables.sharding: column_wise cuts rows into vectors of 4, and model.dim=12 is no multiple of 8; "
        "set model.dim=16 or tables.sharding=row_wise",
    ),
    (
        "cpu",
        ["tables.sharding=column_wise", "tables.optimizer=rowwise_adagrad"],
        "tables.optimizer: rowwise_adagrad needs whole rows, and tables.sharding=column_wise cuts them; "
        "set tables.optimizer=adagrad or tables.sharding=row_wise",
    ),
    (
        "cuda",
        ["metadata.dim=6"],
        "metadata.dim: a GPU reads rows in vectors of 4, and 6 is no multiple; set metadata.dim=8",
    ),
]
ALLOWED = [
    ("cuda", ["tables.kernel=fused", "loss.negatives=sampled"]),
    ("cuda", ["tables.kernel=fused_uvm_caching", "loss.negatives=sampled"]),
    ("cpu", ["tables.kernel=fused", "tables.optimizer=sgd", "loss.contrastive=0"]),
    ("cpu", ["tables.kernel=fused", "tables.optimizer=sgd", "model.name=mf"]),
    # Without propagation in training LightGCN is MF.
    ("cpu", ["tables.kernel=fused", "tables.optimizer=sgd", "model.name=lightgcn", "model.gcn_layers=0"]),
    ("cuda", ["metadata.dim=6", "model.name=mf"]),
    ("cpu", ["metadata.dim=6"]),
    ("cpu", ["tables.sharding=table_wise", "model.dim=6", "tables.optimizer=rowwise_adagrad"]),
]


def refusal(device: str, keys: list[str]) -> str | None:
    try:
        config = load_config(RunConfig, None, [*KEYS, *keys])
        check_device(config, torch.device(device))
        if config.model.trained_channels:
            check_pretraining_device(config, torch.device(device))
    except UserError as error:
        return str(error).removeprefix("command line: ")
    return None


@pytest.mark.parametrize(("device", "keys", "answer"), CASES)
def test_the_answer_names_the_key_the_reason_and_what_works(device, keys, answer):
    assert refusal(device, keys) == answer


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_configuration_is_read_alike_on_every_machine(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for keys in (
        ["tables.kernel=fused_uvm_caching", "loss.negatives=sampled"],
        ["tables.kernel=fused", "loss.negatives=sampled"],
        ["model.dim=6", "metadata.dim=6"],
    ):
        read = as_values(load_config(RunConfig, None, [*KEYS, *keys]))
        for section, key, value in (re.split("[.=]", given) for given in keys):
            assert str(read[section][key]) == value


@pytest.mark.parametrize(("device", "keys"), ALLOWED)
def test_what_works_is_not_refused(device, keys):
    assert refusal(device, keys) is None


@pytest.mark.parametrize(("device", "refused"), [("cpu", 570), ("cuda", 540)])
def test_every_combination_is_allowed_or_its_answers_lead_to_one_that_is(device, refused):
    """Of 864. Dense tables: 54 by columns. On a CPU all 288 with a cache and 228 fused; with CUDA 207 of each."""
    found = 0
    for values in itertools.product(*AXES.values()):
        chosen = dict(zip(AXES, values, strict=True))
        for choice in (0, -1):
            asked, answers = dict(chosen), 0
            while (answer := refusal(device, [f"{key}={value}" for key, value in asked.items()])) is not None:
                assert re.fullmatch(r"(tables|model|loss)\.\w+: [^\n]+; set \S+=\S+( or \S+=\S+)?", answer), answer
                key, value = re.findall(r"(\S+)=(\S+)", answer.split("; set ")[1])[choice]
                asked[key] = value
                answers += 1
                assert answers <= 4, answer
        found += answers > 0
    assert found == refused


def test_a_run_of_a_width_that_a_gpu_cannot_read_is_opened_on_the_cpu() -> None:
    config = load_config(RunConfig, None, [*KEYS, "model.name=mf", "model.dim=6"])
    check_reading_device(config, torch.device("cpu"))
    with pytest.raises(UserError, match=r"its model.dim=6 is no multiple; open it with CUDA_VISIBLE_DEVICES= on"):
        check_reading_device(config, torch.device("cuda"))
