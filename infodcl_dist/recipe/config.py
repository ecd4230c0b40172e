"""The configuration of a run: one section a component, every key checked before anything is built."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, Field

from infodcl_dist.base.config import Config
from infodcl_dist.data.side_information import MADE_CHANNELS
from infodcl_dist.graph.propagation_plan import PropagationConfig
from infodcl_dist.inference.evaluation import EvaluationConfig
from infodcl_dist.model.diffusion import DiffusionConfig
from infodcl_dist.model.losses import LossConfig
from infodcl_dist.model.psnet import HEADS, PSNetConfig
from infodcl_dist.parallel.dense import DenseConfig
from infodcl_dist.parallel.table_plan import VECTOR
from infodcl_dist.parallel.tables import TablesConfig
from infodcl_dist.recipe.metadata_config import MetadataConfig
from infodcl_dist.train.checkpoints import CheckpointConfig
from infodcl_dist.train.loop import TrainConfig

Ablation = Literal["spectral_rectification", "contextual_reencoding", "psnet", "balance_loss"]


class DataConfig(Config):
    """What is trained on."""

    path: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        description="dataset folder made by `infodcl-dist prepare`; kept absolute, so that a run opens from anywhere"
    )


class RunSection(Config):
    """Where the run lies, and its seed."""

    path: Path = Field(description="run folder; made by the run")
    seed: int = Field(default=0, ge=0, description="of initialization, batches, negatives and all that diffusion draws")
    overwrite: bool = Field(default=False, description="replace a run that lies in run.path already")
    label: str | None = Field(
        default=None, description="what reports call runs of this configuration; null: the model and what is its own"
    )


class ModelConfig(Config):
    """The model."""

    name: Literal["infodcl", "lightgcn", "mf"] = Field(default="infodcl", description="infodcl, or a yardstick")
    channels: tuple[str, ...] = Field(
        default=MADE_CHANNELS, description="knowledge, social, or features and item graphs of the dataset"
    )
    standardize: Literal["none", "column"] = Field(
        default="none",
        description="column: each column of a feature channel to mean 0 and variance 1 over the items seen in "
        "training that have a row; channels made from embeddings or graphs stay as they are",
    )
    dim: int = Field(default=64, ge=2, le=4096, description="embedding width D")
    gcn_layers: int = Field(
        default=2, ge=0, le=10, description="K, propagation layers at inference (lightgcn: in training too)"
    )
    timesteps: int = Field(default=200, ge=1, description="T, diffusion steps")
    psnet: PSNetConfig = Field(default=PSNetConfig(), description="choices inside PSNet")
    diffusion: DiffusionConfig = Field(default=DiffusionConfig(), description="choices of the diffusion process")

    @property
    def training_layers(self) -> int:
        """Propagation layers in training: InfoDCL and MF train on raw rows."""
        return self.gcn_layers if self.name == "lightgcn" else 0

    @property
    def trained_channels(self) -> tuple[str, ...]:
        """The channels of InfoDCL; the yardsticks have none."""
        return self.channels if self.name == "infodcl" else ()

    @pydantic.model_validator(mode="after")
    def _check_channels(self) -> "ModelConfig":
        if self.name == "infodcl" and not self.channels:
            raise ValueError("channels is empty: name knowledge, social, or a feature or item graph of the dataset")
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels names one channel twice")
        if self.psnet.reencoder == "transformer" and self.dim % HEADS != 0:
            raise ValueError(f"psnet.reencoder: the transformer has {HEADS} heads, and dim={self.dim} is no multiple")
        return self


class InitConfig(Config):
    """What the tables start from."""

    run: Annotated[Path | None, AfterValidator(lambda path: path and path.absolute())] = Field(
        default=None,
        alias="from",
        description="an earlier run: users and items that it knew, by their own ids, start from its best epoch's rows",
    )


class RunConfig(Config):
    """A whole run."""

    data: DataConfig
    run: RunSection
    model: ModelConfig = ModelConfig()
    ablation: tuple[Ablation, ...] = Field(default=(), description="parts of InfoDCL that are taken out")
    init: InitConfig = InitConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    tables: TablesConfig = TablesConfig()
    dense: DenseConfig = DenseConfig()
    metadata: MetadataConfig = MetadataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    propagation: PropagationConfig = PropagationConfig()

    @pydantic.model_validator(mode="after")
    def _check_selection(self) -> "RunConfig":
        if 20 not in self.evaluation.cutoffs:
            raise ValueError("evaluation.cutoffs must contain 20: the epoch is chosen by validation recall@20")
        if "recall" not in self.evaluation.metrics:
            raise ValueError("evaluation.metrics must contain recall: the epoch is chosen by validation recall@20")
        if {"spectral_rectification", "contextual_reencoding"} <= set(self.ablation):
            raise ValueError("ablation takes both halves of PSNet out, which leaves no noise; write ablation: [psnet]")
        return self

    @pydantic.model_validator(mode="after")
    def _check_start(self) -> "RunConfig":
        if self.init.run is not None and self.init.run.resolve() == self.run.path.resolve():
            raise ValueError("init.from and run.path are one folder: give the new run another run.path")
        return self

    @pydantic.model_validator(mode="after")
    def _check_tables(self) -> "RunConfig":
        problem = self._problem_of_tables()
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def views_per_example(self) -> int:
        """What contrastive terms compare with the catalogue: a view a channel, and the user's row."""
        if self.model.name != "infodcl":
            return 0
        return len(self.model.channels) * (self.loss.contrastive > 0) + (self.loss.user_contrastive > 0)

    @property
    def samples_per_example(self) -> int:
        """Items drawn for each example of a batch; 0 where contrastive terms are left out or sum over all items."""
        is_sampled = self.loss.negatives == "sampled" and self.views_per_example > 0
        return self.loss.samples_per_example if is_sampled else 0

    def _problem_of_tables(self) -> str | None:
        """Why these tables cannot train this model anywhere, and the nearest choice that works.

        What one device cannot do is asked where it trains, see `recipe.device`.
        """
        tables, dim = self.tables, self.model.dim
        if tables.sharding == "column_wise":
            if dim % (2 * VECTOR) != 0:
                near = -(-dim // (2 * VECTOR)) * 2 * VECTOR
                return (
                    f"tables.sharding: column_wise cuts rows into vectors of {VECTOR}, and model.dim={dim} is no "
                    f"multiple of {2 * VECTOR}; set model.dim={near} or tables.sharding=row_wise"
                )
            if tables.optimizer == "rowwise_adagrad":
                return (
                    "tables.optimizer: rowwise_adagrad needs whole rows, and tables.sharding=column_wise cuts them; "
                    "set tables.optimizer=adagrad or tables.sharding=row_wise"
                )
        return self._problem_of_fused_tables() if tables.is_fused else None

    def _problem_of_fused_tables(self) -> str | None:
        kernel = self.tables.kernel
        if self.model.dim % VECTOR != 0:
            return (
                f"tables.kernel: {kernel} needs rows of whole vectors of {VECTOR}, and model.dim={self.model.dim} is "
                f"no multiple; set model.dim={-(-self.model.dim // VECTOR) * VECTOR} or tables.kernel=dense"
            )
        if self.model.training_layers > 0:
            return (
                f"tables.kernel: {kernel} updates looked-up rows alone, and model.name=lightgcn moves every row; "
                "set tables.kernel=dense"
            )
        if self.views_per_example > 0 and self.loss.negatives == "catalogue":
            return (
                f"tables.kernel: {kernel} updates looked-up rows alone, and loss.negatives=catalogue moves every row; "
                "set loss.negatives=sampled or tables.kernel=dense"
            )
        return None

    @property
    def pretraining_tables(self) -> TablesConfig:
        """The tables of pre-training: LightGCN moves every row, which the dense kernel alone does."""
        plain = TablesConfig()
        plainly = {name: getattr(plain, name) for name in ("kernel", "sharding", "optimizer")}
        return self.tables.model_copy(update=plainly)

    def pretraining(self, folder: Path) -> "RunConfig":
        """The LightGCN run whose embeddings the metadata channels are made from, to be kept in `folder`."""
        made = self.metadata
        return RunConfig(
            data=self.data,
            run=RunSection(path=folder, seed=made.seed),
            model=ModelConfig(name="lightgcn", channels=(), dim=made.dim, gcn_layers=made.layers),
            loss=LossConfig(bpr=1.0, regularization=made.regularization),
            train=TrainConfig(
                epochs=made.epochs,
                global_batch_size=made.global_batch_size,
                learning_rate=made.learning_rate,
                evaluate_every=made.evaluate_every,
                patience=made.patience,
                timeout_s=self.train.timeout_s,
            ),
            tables=self.pretraining_tables,
            checkpoint=self.checkpoint,
            propagation=self.propagation.model_copy(update={"precision": "float32"}),
        )
