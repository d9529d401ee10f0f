"""Sessions on disk: what they cost, and whether they come through stops and kills."""
