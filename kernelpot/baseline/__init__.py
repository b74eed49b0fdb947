"""What kernels need not learn: free atoms, walls, pair functions, charges."""
