"""A transformers model as NSE uses it: its layout, its identity, its prompts, and text generation."""
