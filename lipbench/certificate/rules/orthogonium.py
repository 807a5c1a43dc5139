"""Rules for layers of orthogonium."""
