"""Sessions on disk: their cost, and whether they survive being stopped or killed."""
