"""Molecular dynamics with a fitted potential."""
