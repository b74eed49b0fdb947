"""Benchmarks over commits, run by airspeed velocity."""
