"""Imports run one way only, cycles exist nowhere, and the communication between ranks stands where it belongs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import infodcl_dist

ROOT = Path(infodcl_dist.__file__).parent
NAME = "infodcl_dist"
# A package imports from itself and from those before it.
ORDER = ("base", "data", "parallel", "graph", "model", "train", "inference", "recipe", "bench", "tune", "report", "cli")
ENTRY_POINTS = {f"{NAME}.__main__": "cli", f"{NAME}.train.__main__": "cli"}
MODULES_AT_LEAST = 60  # there were 66 when this was written: a walk that finds almost nothing would pass everything

COLLECTIVES = {
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single"),
    *("barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "irecv", "isend", "recv", "reduce"),
    *("reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send", "batch_isend_irecv"),
}
# Checkpoints are torch.distributed.checkpoint's, of the tables' shards: neither speaks to other ranks by hand.
MAY_REACH = {f"{NAME}.train.checkpoint": ("torch.distributed.checkpoint", "torch.distributed._shard.sharded_tensor.")}


class Module(NamedTuple):
    name: str
    file: Path
    tree: ast.Module


class Import(NamedTuple):
    target: str  # full name of a module, or of something in it
    line: int


def modules() -> list[Module]:
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = [NAME, *file.relative_to(ROOT).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, file, ast.parse(file.read_text(encoding="utf-8"))))
    return found


MODULES = modules()
NAMES = {module.name for module in MODULES}


def imports(tree: ast.AST, name: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import statement, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)


def package_of(name: str) -> str | None:
    """The row of ORDER that a module belongs to; None for the root, which imports nothing."""
    if name in ENTRY_POINTS:
        return ENTRY_POINTS[name]
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else None


def offences(name: str, tree: ast.AST, *, is_package: bool = False) -> list[str]:
    own = package_of(name)
    found = []
    for target, line in imports(tree, name, is_package=is_package):
        if target.split(".")[0] != NAME:
            continue
        wanted = package_of(target)
        if wanted is not None and (own is None or ORDER.index(wanted) > ORDER.index(own)):
            found.append(f"{name}, line {line}: {own or 'the root'} imports {target}; the order is {', '.join(ORDER)}")
    return found


def test_imports_run_one_way() -> None:
    assert len(MODULES) >= MODULES_AT_LEAST
    for module in MODULES:
        package = module.name.split(".")[1:2]
        known = not package or package[0] in ORDER or module.name in ENTRY_POINTS
        assert known, f"{module.name} belongs to no package of ORDER: give its package a place there"
    visited = sum(1 for module in MODULES for _ in imports(module.tree, module.name))
    assert visited > 5 * len(MODULES)
    found = [
        offence
        for module in MODULES
        for offence in offences(module.name, module.tree, is_package=module.file.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("infodcl_dist.data.x", "from infodcl_dist.parallel.group import Group"),
        ("infodcl_dist.base.x", "import infodcl_dist.data.pairs"),
        ("infodcl_dist.model.x", "def f():\n    from infodcl_dist.train import step"),
        ("infodcl_dist.graph.x", "if TYPE_CHECKING:\n    from infodcl_dist import model"),
        ("infodcl_dist.graph.x", "from ..recipe import config"),
        ("infodcl_dist.train.x", "from infodcl_dist.cli.main import main"),
        ("infodcl_dist", "from infodcl_dist.base import errors"),
    ],
)
def test_an_import_against_the_arrow_is_seen(name: str, code: str) -> None:
    (offence,) = offences(name, ast.parse(code))
    assert offence.startswith(f"{name}, line ")


def test_no_cycle() -> None:
    graph = {
        module.name: {
            longest
            for target, _ in imports(module.tree, module.name, is_package=module.file.name == "__init__.py")
            if (longest := target if target in NAMES else target.rpartition(".")[0]) in NAMES
        }
        for module in MODULES
    }
    assert sum(map(len, graph.values())) > 2 * len(MODULES)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def mentions_of_distributed(tree: ast.AST) -> set[str]:
    """`torch.distributed…` as it is imported or reached by attributes."""
    found = {target for target, _ in imports(tree, "") if f"{target}.".startswith("torch.distributed.")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed."):
            found.add(ast.unparse(node))
    return found


def reaching_out() -> dict[str, list[str]]:
    """Modules outside parallel/ that reach for torch.distributed, without what they may."""
    found = {}
    for module in MODULES:
        mentions = mentions_of_distributed(module.tree)
        wrong = [mention for mention in mentions if not mention.startswith(MAY_REACH.get(module.name, "none"))]
        if wrong and package_of(module.name) != "parallel":
            found[module.name] = sorted(wrong)
    return found


def test_only_parallel_speaks_to_other_ranks() -> None:
    assert len(MODULES) >= MODULES_AT_LEAST
    assert sum(bool(mentions_of_distributed(module.tree)) for module in MODULES) >= 3
    assert mentions_of_distributed(ast.parse("from torch import distributed as d")) == {"torch.distributed"}
    found = reaching_out()
    assert not found, f"call infodcl_dist.parallel in place of {found}"


def collective_calls(tree: ast.AST) -> list[str]:
    """Collectives called as `dist.NAME(…)` or `torch.distributed.NAME(…)`."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        ast.unparse(call)
        for call in calls
        if isinstance(call, ast.Attribute)
        and call.attr in COLLECTIVES
        and ast.unparse(call.value) in {"dist", "torch.distributed"}
    ]


def test_collectives_stand_in_one_file() -> None:
    calls = {module.name: found for module in MODULES if (found := collective_calls(module.tree))}
    assert set(calls) == {f"{NAME}.parallel.collectives"}, calls
    assert len(calls[f"{NAME}.parallel.collectives"]) >= 8


def test_the_command_line_starts_without_the_stack() -> None:
    code = "import sys, infodcl_dist.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported = set(finished.stdout.split())
    assert "infodcl_dist" in imported
    assert not imported & {"torch", "torchrec", "fbgemm_gpu", "deepspeed", "ray", "pyarrow", "scipy"}
