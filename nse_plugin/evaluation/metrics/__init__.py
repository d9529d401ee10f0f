"""Metrics of what a model predicts or writes about facts: one idea a file."""
