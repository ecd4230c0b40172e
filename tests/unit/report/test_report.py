"""Reports of run folders as runs write them; what they hold is made up here, so that every mean is known."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from infodcl_dist.base.config import dump_config, load_config
from infodcl_dist.base.errors import UserError
from infodcl_dist.cli.main import infodcl_dist, run
from infodcl_dist.recipe.config import RunConfig
from infodcl_dist.report import curves
from infodcl_dist.report.comparison import Fixed, compare, paired_p
from infodcl_dist.report.page import PAPER, write_report
from infodcl_dist.report.runs import group_runs, read_run

CHECKSUMS = {"office": next(iter(PAPER)), "baby": "of baby"}
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50)]


def write_run(path: Path, seed: int, test: float, *keys: str, data: str = "office", splits: int = 2) -> Path:
    """A run whose test metrics all are `test`, and whose validation metrics are half of it."""
    path.mkdir(parents=True)
    config = load_config(RunConfig, None, [f"data.path=sets/{data}", f"run.path={path}", f"run.seed={seed}", *keys])
    (path / "config.yaml").write_text(dump_config(config))
    (path / "dataset.json").write_text(json.dumps({"name": data, "checksum": CHECKSUMS.get(data, "of others")}))
    found = {"valid": dict.fromkeys(METRICS, test / 2), "test": dict.fromkeys(METRICS, test)}
    result = dict(list(found.items())[:splits]) | {"best_epoch": 2, "world_size": 1, "versions": {"torch": "2.13.0"}}
    (path / "result.json").write_text(json.dumps(result))
    records = [{"epoch": e, "loss": 1 / e, "loss/bpr": 1 / e, "loss/contrastive": 0.0} for e in (1, 2, 3)]
    records[1]["valid/recall@20"] = test / 2
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    ours, theirs = {0: 0.13, 1: 0.14, 2: 0.15}, {0: 0.12, 1: 0.122, 2: 0.13}
    made = [write_run(tmp_path / f"ours-{seed}", seed, value) for seed, value in ours.items()]
    # What a yardstick never reads does not make it another one.
    keys = ["loss.user_contrastive=0.5", "model.standardize=column", "dense.precision=bf16", "train.profile_steps=3"]
    made += [
        write_run(tmp_path / f"gcn-{seed}", seed, value, "model.name=lightgcn", *keys[: 2 * seed])
        for seed, value in theirs.items()
    ]
    made += [
        write_run(tmp_path / f"mf-{rate}", 0, 0.1, "model.name=mf", f"train.learning_rate={rate}")
        for rate in (0.1, 0.2)
    ]
    return made


def test_runs_are_grouped_by_all_but_their_seed_and_named_by_what_differs(runs: list[Path]) -> None:
    groups = {group.label: group for group in group_runs(map(read_run, runs))}
    assert list(groups) == [
        "infodcl (knowledge, social)",
        "lightgcn",
        "mf train.learning_rate=0.1",
        "mf train.learning_rate=0.2",
    ]
    assert groups["lightgcn"].values("test", "recall@20") == {0: 0.12, 1: 0.122, 2: 0.13}


def test_a_run_goes_by_its_own_label(tmp_path: Path) -> None:
    made = [
        write_run(tmp_path / f"{rate}", 0, 0.1, "run.label=ours", f"train.learning_rate={rate}") for rate in (0.1, 0.2)
    ]
    made += [write_run(tmp_path / f"seed-{seed}", seed, 0.1, "run.label='the yardstick'") for seed in (0, 1)]
    made.append(write_run(tmp_path / "other", 2, 0.1, "run.label=another"))
    assert [(group.label, len(group.runs)) for group in group_runs(map(read_run, made))] == [
        ("another", 1),
        ("ours train.learning_rate=0.1", 1),
        ("ours train.learning_rate=0.2", 1),
        ("the yardstick", 2),
    ]


def test_the_page_says_what_the_rankings_leave_out(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", 0, 0.1, data="office")
    masked = write_run(tmp_path / "masked", 0, 0.1, "evaluation.mask_valid=true", data="baby")
    cases = {
        "training items left out;": [plain],
        "training and validation items left out;": [masked],
        "training items (of baby validation items too) left out;": [plain, masked],
    }
    for number, (words, given) in enumerate(cases.items()):
        write_report(given, tmp_path / f"out-{number}")
        assert words in (tmp_path / f"out-{number}" / "results.md").read_text()
        assert words in (tmp_path / f"out-{number}" / "index.html").read_text()
    metrics = dict.fromkeys(METRICS, 0.1)
    for data, is_refused in (("office", False), ("baby", True)):
        fixed = tmp_path / f"{data}.json"
        names = {"dataset": data, "checksum": CHECKSUMS[data], "label": "EASE"}
        fixed.write_text(json.dumps([{**names, "valid": metrics, "test": metrics}]))
        if is_refused:
            with pytest.raises(UserError, match=r"baby\.json: EASE ranks the validation items of baby too"):
                write_report([plain, masked], tmp_path / data, fixed=fixed)
        else:
            write_report([plain, masked], tmp_path / data, fixed=fixed)


def test_a_run_from_before_a_key_existed_has_its_default(tmp_path: Path) -> None:
    keys = ["train.matmul_precision=medium"]
    made = [write_run(tmp_path / f"{seed}", seed, 0.1, *keys[: seed // 2]) for seed in (0, 1, 2)]
    text = (made[0] / "config.yaml").read_text()
    assert {"matmul_precision:", "label:"} <= set(text.split())
    older = [line for line in text.splitlines(True) if "matmul_precision" not in line and "label" not in line]
    (made[0] / "config.yaml").write_text("".join(older))
    found = {group.label: len(group.runs) for group in group_runs(map(read_run, made))}
    model = "infodcl (knowledge, social) train.matmul_precision"
    assert found == {f'{model}="highest"': 2, f'{model}="medium"': 1}


def test_means_deviations_and_the_paired_test(runs: list[Path]) -> None:
    cells = {group.label: found for group, found in compare(group_runs(map(read_run, runs)), [], ["lightgcn"])}
    ours = cells["infodcl (knowledge, social)"]["recall@20"]
    assert ours.mean == pytest.approx(0.14)
    assert ours.deviation == pytest.approx(0.01), "of a sample"
    assert ours.p == pytest.approx(stats.ttest_rel([0.13, 0.14, 0.15], [0.12, 0.122, 0.13]).pvalue)
    assert str(ours) == f"0.1400 ± 0.0100 (p {ours.p:.2g})"
    assert cells["infodcl (knowledge, social)"]["recall@50"].p is None, "two metrics are tested, not all"
    assert cells["lightgcn"]["recall@20"].p is None
    alone = cells["mf train.learning_rate=0.1"]["recall@20"]
    assert math.isnan(alone.deviation)
    assert str(alone) == "0.1000"


def test_the_best_yardstick_by_validation_is_taken_and_may_have_no_seed(runs: list[Path]) -> None:
    groups = group_runs(map(read_run, runs))
    for valid, p in (
        (0.07, stats.ttest_1samp([0.13, 0.14, 0.15], 0.135).pvalue),
        (0.05, stats.ttest_rel([0.13, 0.14, 0.15], [0.12, 0.122, 0.13]).pvalue),  # lightgcn's is 0.062
    ):
        ease = Fixed(
            "office", CHECKSUMS["office"], "EASE", dict.fromkeys(METRICS, valid), dict.fromkeys(METRICS, 0.135)
        )
        cells = {group.label: found for group, found in compare(groups, [ease], ["lightgcn", "EASE"])}
        assert cells["infodcl (knowledge, social)"]["recall@20"].p == pytest.approx(p)


def test_a_yardstick_whose_label_others_begin_with_is_that_one(tmp_path: Path) -> None:
    made = [write_run(tmp_path / f"whole-{seed}", seed, 0.1 + seed / 100, "run.label=ours") for seed in (0, 1, 2)]
    keys = ["run.label='ours w/o balance'", "ablation=[balance_loss]"]
    made += [write_run(tmp_path / f"part-{seed}", seed, 0.11 + seed / 90, *keys) for seed in (0, 1, 2)]
    groups = group_runs(map(read_run, made))
    cells = {group.label: found for group, found in compare(groups, [], ["ours"])}
    assert cells["ours"]["recall@20"].p is None
    assert cells["ours w/o balance"]["recall@20"].p is not None
    cells = {group.label: found for group, found in compare(groups, [], ["our"])}
    assert cells["ours w/o balance"]["recall@20"].p is None, "by a beginning, the better of the two"


def test_only_common_seeds_are_paired() -> None:
    assert paired_p({0: 1.0, 1: 2.0}, {1: 2.0, 2: 5.0}) is None
    assert paired_p({0: 1.0, 1: 2.0, 7: 9.0}, {0: 0.5, 1: 1.0, 2: 5.0}) == pytest.approx(
        stats.ttest_rel([1.0, 2.0], [0.5, 1.0]).pvalue
    )


def test_the_report_is_one_folder(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "ease.json").write_text(
        json.dumps(
            [
                {
                    "dataset": "office",
                    "checksum": CHECKSUMS["office"],
                    "label": "EASE (λ 200)",
                    "valid": dict.fromkeys(METRICS, 0.05),
                    "test": dict.fromkeys(METRICS, 0.122),
                }
            ]
        )
    )
    write_report(runs, tmp_path / "out", yardsticks=["lightgcn", "EASE"], fixed=tmp_path / "ease.json")
    text = (tmp_path / "out" / "results.md").read_text()
    page = (tmp_path / "out" / "index.html").read_text()
    for shown in (
        "infodcl (knowledge, social)",
        "0.1400 ± 0.0100",
        "EASE (λ 200)",
        "paper: InfoDCL-D",
        "0.1398",
        "The yardstick of office is lightgcn.",
    ):
        assert shown in text
        assert shown in page
    images = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    assert images == ["0-loss.png", "0-validation.png"]
    for image in images:
        assert f"src='{image}'" in page
        assert (tmp_path / "out" / image).read_bytes().startswith(b"\x89PNG")


def test_a_line_has_its_color_on_all_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share one legend, and the first has no contrastive term."""
    for label in "abc":
        records = (write_run(tmp_path / label, 0, 0.1, f"run.label={label}") / "metrics.jsonl").read_text()
        if label != "a":
            records = records.replace('"loss/contrastive": 0.0', '"loss/contrastive": 0.5')
        (tmp_path / label / "metrics.jsonl").write_text(records)
    colors: dict[str, list[str]] = {}
    save = curves._save

    def look(figure: Any, first: Any, file: Path) -> None:
        for line in (line for axis in figure.axes for line in axis.lines):
            colors.setdefault(line.get_label(), []).append(line.get_color())
        save(figure, first, file)

    monkeypatch.setattr(curves, "_save", look)
    curves.draw_curves(group_runs(read_run(tmp_path / label) for label in "abc"), tmp_path)
    assert {label: len(found) for label, found in colors.items()} == {"a": 3, "b": 4, "c": 4}
    assert len({frozenset(found) for found in colors.values()}) == 3
    assert all(len(set(found)) == 1 for found in colors.values())


def test_the_command_makes_the_page(runs: list[Path], tmp_path: Path) -> None:
    given = [*map(str, runs), "--out", str(tmp_path / "out"), "--yardstick", "lightgcn"]
    assert run(infodcl_dist, ["report", *given]) == 0
    assert {"results.md", "index.html"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_figures_of_other_data_stand_beside_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0, 0.1)
    masked = write_run(tmp_path / "masked", 0, 0.1, "evaluation.mask_valid=true")
    other = write_run(tmp_path / "other", 0, 0.1)
    (other / "dataset.json").write_text('{"name": "office", "checksum": "of another split"}')
    for given, is_papers in ((run, True), (masked, False), (other, False)):
        write_report([given], tmp_path / f"of {given.name}")
        assert ("paper: MF" in (tmp_path / f"of {given.name}" / "results.md").read_text()) == is_papers
    names = {"dataset": "office", "checksum": CHECKSUMS["office"], "label": "EASE"}
    fixed, metrics = tmp_path / "ease.json", dict.fromkeys(METRICS, 0.1)
    fixed.write_text(json.dumps([{**names, "valid": metrics, "test": metrics}]))
    write_report([run], tmp_path / "out", fixed=fixed)
    with pytest.raises(UserError, match=r"ease\.json: EASE was measured on other contents of office than its runs"):
        write_report([other], tmp_path / "none", fixed=fixed)


def test_what_a_run_lacks_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0, 0.0, data="toys")
    result = json.loads((run / "result.json").read_text())
    result["test"] = {"recall@20": 0.0, "ndcg@20": 0.0}
    (run / "result.json").write_text(json.dumps(result))
    lines = (run / "metrics.jsonl").read_text()
    for text, images in ((lines + '{"epoch": 4, "lo', ["0-loss.png"]), (None, [])):
        (run / "metrics.jsonl").unlink() if text is None else (run / "metrics.jsonl").write_text(text)
        out = tmp_path / f"out-{len(images)}"
        write_report([run], out)
        assert "| 0.0000 | – | 0.0000 | – |" in (out / "results.md").read_text()
        assert [file.name for file in out.glob("*.png")] == images, "all validation metrics are 0"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "run: [", r"config\.yaml:1: is no valid YAML"),
        ("config.yaml", "model: {name: mf}", r"config\.yaml: has no run\.seed"),
        ("dataset.json", "{}", r"dataset\.json: has no name; train the run again"),
        ("dataset.json", "null", r"dataset\.json: has no name"),
        ("result.json", '{"test": {}, "best_epoch": 1}', r"result\.json: has no valid"),
        ("metrics.jsonl", '{"epoch": 1}\n{"epo\n', r"metrics\.jsonl:2: cannot be read as JSON"),
    ],
)
def test_a_broken_file_of_a_run_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    run = write_run(tmp_path / "run", 0, 0.1)
    (run / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(run)


def test_what_cannot_be_reported_is_said_and_nothing_is_left(runs: list[Path], tmp_path: Path) -> None:
    trial = write_run(tmp_path / "trial", 5, 0.1, splits=1)
    twin = write_run(tmp_path / "twin", 0, 0.1)
    masked = write_run(tmp_path / "masked", 9, 0.1, "evaluation.mask_valid=true")
    (tmp_path / "empty").mkdir()
    for extra, message in (
        (trial, "trial of a sweep"),
        (twin, "once more"),
        (masked, "evaluation.mask_valid=True and .* False"),
        (tmp_path / "empty", "no run folder"),
    ):
        with pytest.raises(UserError, match=message):
            write_report([*runs, extra], tmp_path / "out")
    with pytest.raises(UserError, match="no runs of that name; there are: infodcl"):
        write_report(runs, tmp_path / "out", yardsticks=["sgl"])
    assert not (tmp_path / "out").exists()
