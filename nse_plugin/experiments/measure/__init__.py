"""What experiments measure of a model, edited or not."""
