"""Comparisons of editing methods: run, recorded, resumed, reported. The only room that imports hydra."""
