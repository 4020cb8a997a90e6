"""Stands for NeMo RL."""
