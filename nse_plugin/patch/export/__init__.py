"""Export a patch to formats of other programs."""
