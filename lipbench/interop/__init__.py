"""Foreign formats: a model from elsewhere in, a network of ours out."""
