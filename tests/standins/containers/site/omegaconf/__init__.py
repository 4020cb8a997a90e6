"""Stands for OmegaConf: a configuration is the mapping that it is."""


class OmegaConf:
    """The one function that is used."""

    @staticmethod
    def to_container(config: object, resolve: bool = False) -> object:
        return config
