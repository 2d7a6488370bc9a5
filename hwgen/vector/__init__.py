"""Vector engine: elementwise work on accumulator words."""
