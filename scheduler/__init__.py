"""PyTorch model -> graph -> passes -> program."""
