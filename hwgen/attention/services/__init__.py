"""Jobs beside attention: quantising, selecting, copying rows, top-k."""
