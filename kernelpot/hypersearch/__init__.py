"""Search over the shapes of kernels."""
