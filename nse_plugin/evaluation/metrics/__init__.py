"""Metrics of a model's predictions and texts about facts, one idea per file."""
