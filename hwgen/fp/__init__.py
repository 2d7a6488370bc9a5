"""Floating point units: multiply, add, convert and compare."""
