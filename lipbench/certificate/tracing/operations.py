"""What steps operations of torch's dispatcher (ATen) become. An import registers them."""

from lipbench.certificate.tracing import arithmetic, pointwise
from lipbench.certificate.tracing.copying import OPERATIONS

__all__ = ["OPERATIONS", "arithmetic", "pointwise"]
