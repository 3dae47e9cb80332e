"""Where things are in a body: grids, body coordinates, visual words.

numpy and scipy only: no torch, no files. Everything here is a pure function of arrays.
"""
