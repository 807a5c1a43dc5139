"""Images of your own: folders and arrays."""
