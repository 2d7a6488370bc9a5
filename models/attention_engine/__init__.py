"""The attention engine in NumPy integers, bit for bit; what it computes is in hwgen/attention/README.md."""
