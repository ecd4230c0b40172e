"""Finished runs as their folders tell of them, and which of them are the same run with another seed."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infodcl_dist.base.config import as_values, read_yaml
from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import read_json, read_json_lines

# What does not tell two runs apart: where they lie, how they were saved, profiled and spread over ranks.
NOT_COMPARED = (
    "run.",
    "data.",
    "checkpoint.",
    "propagation.max_memory_gb",
    "propagation.plan",
    "train.profile_steps",
    "train.timeout_s",
    "tables.sharding",
    "dense.zero_stage",
    "dense.whole_",
)
# Nor what a model without channels never reads.
OF_CHANNELS = (
    *("model.channels", "model.standardize", "model.timesteps", "model.psnet.", "model.diffusion."),
    *("loss.reconstruction", "loss.contrastive", "loss.user_", "loss.balance", "loss.temperature"),
    *("loss.negatives", "loss.samples", "metadata.", "ablation", "dense."),
)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        dataset: the data set's name.
        checksum: of the data set's contents.
        config: flat, by `section.key`; without keys that did not exist yet when it was trained.
        result: what `result.json` holds; has `test`.
        records: the lines of `metrics.jsonl`.
    """

    path: Path
    dataset: str
    checksum: str
    config: dict[str, Any]
    result: dict[str, Any]
    records: list[dict[str, float]]

    @property
    def seed(self) -> int:
        """Its seed."""
        seed: int = self.config["run.seed"]
        return seed

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the configuration that makes it another model, and not another seed or machine."""
        has_channels = self.config["model.name"] == "infodcl"
        passed_over = NOT_COMPARED if has_channels else (*NOT_COMPARED, *OF_CHANNELS)
        return {key: value for key, value in self.config.items() if not key.startswith(passed_over)}

    @property
    def model(self) -> str:
        """The run's own label, or `mf`, `lightgcn`, or InfoDCL with its channels and what was taken out of it."""
        if self.config.get("run.label") is not None:
            return str(self.config["run.label"])
        if self.config["model.name"] != "infodcl":
            return str(self.config["model.name"])
        without = "".join(f" w/o {part}" for part in self.config["ablation"])
        return f"infodcl ({', '.join(self.config['model.channels'])}){without}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    dataset: str
    label: str
    runs: tuple[Run, ...]  # by seed

    def values(self, split: str, metric: str) -> dict[int, float]:
        """A metric by seed, of the runs that measured it."""
        return {run.seed: run.result[split][metric] for run in self.runs if metric in run.result[split]}


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        UserError: it is none or cannot be looked into, or the run is not finished, or its test metrics were left out (a
            sweep's trial), or a file of it is broken.
    """
    try:
        is_run, is_finished = [(path / file).is_file() for file in ("config.yaml", "result.json")]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a run folder") from error
    if not is_run:
        raise UserError(f"{path}: is no run folder (it has no config.yaml)")
    if not is_finished:
        raise UserError(f"{path}: is not finished (it has no result.json); train it to its end, or leave it out")
    result, data = _object(path / "result.json"), _object(path / "dataset.json")
    if "test" not in result:
        raise UserError(
            f"{path}: has no test metrics, as a trial of a sweep; train the sweep's best.yaml, and give that"
        )
    config = _flat(read_yaml(path / "config.yaml"))
    records = read_json_lines(path / "metrics.jsonl")
    for file, found, needed in (
        ("config.yaml", config, ("run.seed", "model.name")),
        ("dataset.json", data, ("name", "checksum")),
        ("result.json", result, ("best_epoch", "valid", "versions", "world_size")),
    ):
        missing = next((name for name in needed if name not in found), None)
        if missing is not None:
            raise UserError(f"{path / file}: has no {missing}; train the run again, or leave it out")
    return Run(path, data["name"], data["checksum"], config, result, records)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Runs by data set and configuration, each group by a label that no other group of its data set has.

    A key that did not exist yet when a run was trained has its default.

    Raises:
        UserError: two runs are the same with the same seed, or a data set's name stands for two contents, or its runs
            were evaluated in two ways.
    """
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    contents: dict[str, Run] = {}
    for run in sorted(_with_defaults(list(runs)), key=lambda run: (run.dataset, run.model, run.seed)):
        known = contents.setdefault(run.dataset, run)
        if known.checksum != run.checksum:
            raise UserError(f"{run.path}: its data set {run.dataset!r} has other contents than that of {known.path}")
        masks, known_masks = (one.config.get("evaluation.mask_valid") for one in (run, known))
        if masks != known_masks:
            raise UserError(
                f"{run.path}: has evaluation.mask_valid={masks} and {known.path} {known_masks}, so that their test "
                "metrics do not compare; give runs that were evaluated alike"
            )
        members = groups[run.dataset, run.model, json.dumps(run.identity, sort_keys=True)]
        twin = next((member for member in members if member.seed == run.seed), None)
        if twin is not None:
            raise UserError(f"{run.path}: is {twin.path} once more, with the same seed; give one of them")
        members.append(run)
    return [
        Group(
            dataset, _label(members[0], [other[0] for (of, *_), other in groups.items() if of == dataset]), (*members,)
        )
        for (dataset, *_), members in groups.items()
    ]


def _label(run: Run, others: list[Run]) -> str:
    """The model, and the keys in which it differs from groups of the same model."""
    alike = [other for other in others if other.model == run.model and other is not run]
    differing = sorted(
        {key for other in alike for key, value in run.identity.items() if other.identity.get(key) != value}
    )
    return " ".join([run.model, *(f"{key}={json.dumps(run.identity[key])}" for key in differing)])


def _with_defaults(runs: list[Run]) -> list[Run]:
    if len({frozenset(run.config) for run in runs}) <= 1:
        return runs
    from infodcl_dist.recipe.config import RunConfig  # brings torch, without which a report starts in a second

    anywhere = {"path": "."}
    defaults = _flat(as_values(RunConfig.model_validate({"data": anywhere, "run": anywhere})))
    return [replace(run, config=defaults | run.config) for run in runs]


def _object(file: Path) -> dict[str, Any]:
    found = read_json(file)
    return found if isinstance(found, dict) else {}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
