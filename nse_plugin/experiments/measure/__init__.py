"""Measurements that experiments make on unedited and edited models."""
