"""What a model says of facts and of anything else, before and after an edit."""
