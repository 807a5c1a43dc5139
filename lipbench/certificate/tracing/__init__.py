"""Networks whose forward is Python code, read as a graph of known steps: `read`."""

from lipbench.certificate.tracing.reading import read

__all__ = ["read"]
