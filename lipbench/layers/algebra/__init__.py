"""Linear algebra of matrices and convolutions."""
