"""Labelled structures in: reading, soundness, neighbors, systems."""
