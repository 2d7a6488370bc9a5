"""Linear symmetric quantisation of rows into packed planes of bits."""
