"""CelebA: its official files, and drawn faces in their place."""
