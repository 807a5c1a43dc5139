"""What attacks are made with. From the ground up: `box` (geometry), `noise` (randomness keyed by seed and image) and
`judging` (who is adversarial); `boundary` (searches along a ray); `foothold` (some adversarial image); `searching`,
which makes an attack of a search; `combining`, which makes one attack of several. No file here knows any attack.
"""

from lipbench.attacks.engine.combining import best_of, chain
from lipbench.attacks.engine.searching import minimum_distance, warm

__all__ = ["best_of", "chain", "minimum_distance", "warm"]
