"""Stands for nemo_rl.utils.logger: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict


class WandbConfig(TypedDict):
    project: NotRequired[int | str | None]
    name: NotRequired[int | str | None]
    entity: NotRequired[int | str | None]


class TensorboardConfig(TypedDict):
    log_dir: NotRequired[int | str | None]


class SwanlabConfig(TypedDict):
    project: NotRequired[int | str | None]
    name: NotRequired[int | str | None]


class MLflowConfig(TypedDict):
    experiment_name: NotRequired[int | str | None]
    run_id: NotRequired[int | str | None]
    run_name: NotRequired[int | str | None]
    tracking_uri: NotRequired[int | str | None]
    artifact_location: NotRequired[int | str | None]


class GPUMonitoringConfig(TypedDict):
    collection_interval: NotRequired[int | str | None]
    flush_interval: NotRequired[int | str | None]


class LoggerConfig(TypedDict):
    log_dir: NotRequired[int | str | None]
    wandb_enabled: NotRequired[int | str | None]
    swanlab_enabled: NotRequired[int | str | None]
    tensorboard_enabled: NotRequired[int | str | None]
    mlflow_enabled: NotRequired[int | str | None]
    wandb: NotRequired[WandbConfig]
    tensorboard: NotRequired[TensorboardConfig]
    swanlab: NotRequired[SwanlabConfig]
    mlflow: NotRequired[MLflowConfig]
    monitor_gpus: NotRequired[int | str | None]
    gpu_monitoring: NotRequired[GPUMonitoringConfig]
    num_val_samples_to_print: NotRequired[int | str | None]


class Logger:
    """Prints what it is given of each step."""

    def log_metrics(
        self,
        metrics: dict[str, Any],
        step: int,
        prefix: str = "",
        step_metric: str | None = None,
        step_finished: bool = False,
    ) -> None:
        print(f"{prefix} {step}: {metrics}", flush=True)
