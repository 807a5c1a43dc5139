"""Bounds that hold near an image: on a ball around it, cut to the box of images.

`program` writes a network as steps, `lines` bounds each step on a region, `certify` carries these bounds back from the
logits. They hold on their `Region` alone, which has its centre in the box. So nothing here is a `LayerBound`, and
`lipbench.certificate.inscribed`, whose centres leave the box, takes nothing else.
"""

from lipbench.certificate.local.certify import LocalWarning, certify_local
from lipbench.certificate.local.ranges import Region
from lipbench.certificate.local.relaxed import LocalBound, margins_near

__all__ = ["LocalBound", "LocalWarning", "Region", "certify_local", "margins_near"]
