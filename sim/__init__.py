"""Runs the hardware: build, memory model, comparison with golden, reports, command line."""
