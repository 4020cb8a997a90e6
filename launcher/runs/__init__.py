"""A run from submission to its end, and what people are shown of it."""
