"""What a fit yields: the fitted model, its predictions, errors and file."""
