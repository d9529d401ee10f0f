"""General ability of an edited model: multiple-choice questions, and tasks of lm-evaluation-harness."""
