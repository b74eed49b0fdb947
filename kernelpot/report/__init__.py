"""What a model is worth, in pictures."""
