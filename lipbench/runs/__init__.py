"""One network in its folder, made once."""
