"""Stands for nemo_rl.data: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict


class ResponseDatasetConfig(TypedDict):
    dataset_name: NotRequired[int | str | None]
    data_path: NotRequired[int | str | None]
    input_key: NotRequired[int | str | None]
    output_key: NotRequired[int | str | None]
    subset: NotRequired[int | str | None]
    split: NotRequired[int | str | None]
    prompt_file: NotRequired[int | str | None]
    system_prompt_file: NotRequired[int | str | None]
    env_name: NotRequired[int | str | None]
    processor: NotRequired[int | str | None]
    download_dir: NotRequired[int | str | None]
    split_validation_size: NotRequired[int | str | None]
    seed: NotRequired[int | str | None]


class PreferenceDatasetConfig(TypedDict):
    dataset_name: NotRequired[int | str | None]
    data_path: NotRequired[int | str | None]
    prompt_key: NotRequired[int | str | None]
    chosen_key: NotRequired[int | str | None]
    rejected_key: NotRequired[int | str | None]
    subset: NotRequired[int | str | None]
    split: NotRequired[int | str | None]
    prompt_file: NotRequired[int | str | None]
    system_prompt_file: NotRequired[int | str | None]


class DataConfig(TypedDict):
    max_input_seq_length: NotRequired[int | str | None]
    add_bos: NotRequired[int | str | None]
    add_eos: NotRequired[int | str | None]
    add_generation_prompt: NotRequired[int | str | None]
    add_system_prompt: NotRequired[int | str | None]
    shuffle: NotRequired[int | str | None]
    num_workers: NotRequired[int | str | None]
    use_multiple_dataloader: NotRequired[int | str | None]
    num_prompts_per_dataloader: NotRequired[int | str | None]
    custom_dataloader: NotRequired[int | str | None]
    train: NotRequired[Any]
    validation: NotRequired[Any]
    default: NotRequired[ResponseDatasetConfig | PreferenceDatasetConfig]
