"""Pictures of a potential: what to draw as numbers, and how to draw it.

`Plots` (``pot.plot``) is what users call; `comparison`, `scans`, `environments` and `learning`
find the numbers, `draw` puts them on axes.
"""
