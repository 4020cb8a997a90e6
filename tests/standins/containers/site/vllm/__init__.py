"""Stands for vLLM: what NeMo RL's workers patch is below."""
