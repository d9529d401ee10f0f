"""A transformers model seen from outside: its parts, its identity, its prompts, what it writes."""
