"""Run, record, resume and report comparisons of editing methods. The only subpackage that imports hydra."""
