"""What an edited model can still do: questions with choices, and tasks of lm-evaluation-harness."""
