"""Generators of good, odd and broken scans, and what a reader must make of each."""
