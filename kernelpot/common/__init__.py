"""What every layer shares: types, threads, files, tables."""
