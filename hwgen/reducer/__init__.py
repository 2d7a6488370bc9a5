"""The N:M reducer (SORE): keeps the values of largest magnitude of every group, on their way to external memory."""
