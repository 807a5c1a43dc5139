"""What attacks are made with. `boundary` searches along a ray, `starting` finds some adversarial image, `searching`
makes an attack of a search, `combining` makes one attack of several, `budget` bounds what an attack costs, `sliding`
moves a point along the boundary, `leaving` follows a ray out of its inscribed ball. No file here knows any attack.
"""

from lipbench.attacks.engine.budget import anytime, within
from lipbench.attacks.engine.combining import best_of, chain
from lipbench.attacks.engine.searching import minimum_distance

__all__ = ["anytime", "best_of", "chain", "minimum_distance", "within"]
