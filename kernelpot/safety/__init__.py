"""Where the model does not know: gate, thresholds, width, damping."""
