"""What a user brings beside the interactions: item features, graphs of items, a graph of users. Opened, then written.

Legend: M users, N items.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from infodcl_dist.base.errors import UserError
from infodcl_dist.data.dataset import Graph
from infodcl_dist.data.features import FeatureFile, have_features, open_features, write_features
from infodcl_dist.data.graph_files import read_item_graph, read_user_graph
from infodcl_dist.data.writer import write_item_graph, write_user_graph

MADE_CHANNELS = ("knowledge", "social")  # computed from interactions; no feature or graph may have their names


@dataclass(frozen=True)
class Written:
    """The manifest's account of what was written."""

    missing_rows: dict[str, int]  # items without a row, by feature
    item_graphs: dict[str, Graph]
    user_graph: Graph | None


@dataclass(frozen=True)
class SideFiles:
    """The files, of which features are open and graphs are known to be there."""

    features: dict[str, FeatureFile]
    item_graphs: Mapping[str, Path]
    user_graph: Path | None

    def have_features(self, item_ids: pa.Array) -> np.ndarray:
        """Which items have a feature row, bool [n]."""
        return have_features(self.features, item_ids)

    def check_items(self, item_ids: pa.Array) -> None:
        """Refuses features whose rows cannot belong to these items; see `FeatureFile`."""
        for file in self.features.values():
            file.check_items(item_ids)

    def write(self, folder: Path, user_ids: pa.Array, item_ids: pa.Array) -> Written:
        """Writes all of it into a dataset's folder, by the indices of the ids [M] and [N].

        Raises:
            UserError: as `write_features`, `read_item_graph` and `read_user_graph`.
        """
        missing, graphs, user_graph = {}, {}, None
        for name, file in self.features.items():
            (folder / "features").mkdir(exist_ok=True)
            missing[name] = write_features(folder / "features" / f"{name}.npy", name, file, item_ids)
        for name, path in self.item_graphs.items():
            graph = read_item_graph(name, path, item_ids)
            graphs[name] = write_item_graph(folder, name, graph.attributes_of_items, graph.attributes)
        if self.user_graph is not None:
            user_graph = write_user_graph(folder, read_user_graph(self.user_graph, user_ids))
        return Written(missing, graphs, user_graph)


def open_side_files(
    features: Mapping[str, Path], item_graphs: Mapping[str, Path], user_graph: Path | None
) -> SideFiles:
    """Checks names and files before anything large is read.

    Raises:
        UserError: a name that is no identifier, is reserved or stands for two channels, a graph's file that is not
            there, or a feature's that does not open.
    """
    for option, files in (("--item-features", features), ("--item-graph", item_graphs)):
        for name in files:
            _check_name(option, name)
    if both := sorted(set(features) & set(item_graphs)):
        raise UserError(f"--item-graph {both[0]}=…: {both[0]} is an item feature already; choose another name")
    graphs = [("--item-graph", file) for file in item_graphs.values()]
    graphs += [("--user-graph", user_graph)] if user_graph is not None else []
    for option, file in graphs:
        if not os.path.isfile(file):
            raise UserError(f"{file}: no such file; check {option}")
    return SideFiles(open_features(features), item_graphs, user_graph)


def _check_name(option: str, name: str) -> None:
    if not (name.isidentifier() and name.isascii()):
        raise UserError(f"{option} {name}=…: the name must be of letters, digits and underscores, a digit not first")
    if name in MADE_CHANNELS:
        raise UserError(f"{option} {name}=…: {name} is a computed channel; choose another name")
