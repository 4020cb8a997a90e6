"""What has to be there before a run: inputs converted, models in NeMo RL's cache."""
