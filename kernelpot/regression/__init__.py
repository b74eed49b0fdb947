"""Gaussian-process regression on matrices; nothing here knows of atoms."""
