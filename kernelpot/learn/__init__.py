"""Choosing what to compute next, and learning while a simulation runs."""
