"""Engines between external memory and the scratchpads, and the accumulator scratchpad."""
