"""The attention engine: queries by keys, softmax, probabilities by values, importance; see README.md."""
