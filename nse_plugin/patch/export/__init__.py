"""A patch in the forms that other programs read."""
