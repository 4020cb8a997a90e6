"""Stands for AutoModel's data set of tokenized documents."""
