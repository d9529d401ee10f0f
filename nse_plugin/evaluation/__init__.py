"""Measure a model before and after an edit: edited facts, everything else, drift and general ability."""
