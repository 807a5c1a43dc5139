"""CIFAR-10 and CIFAR-100, and the JPEG edition."""
