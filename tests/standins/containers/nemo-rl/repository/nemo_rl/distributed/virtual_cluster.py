"""Stands for nemo_rl.distributed.virtual_cluster: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import NotRequired, TypedDict


class ClusterConfig(TypedDict):
    gpus_per_node: NotRequired[int | str | None]
    num_nodes: NotRequired[int | str | None]
    master_port_range_low: NotRequired[int | str | None]
    master_port_range_high: NotRequired[int | str | None]
    segment_size: NotRequired[int | str | None]
