"""What kernels compare: one file a kind of term."""
