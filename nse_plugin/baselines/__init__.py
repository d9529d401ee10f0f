"""Methods of the comparison that the EasyEdit at hand lacks, written from their papers."""
