"""How near each attack comes to the nearest adversarial images: the local optimality of AttackBench."""

import numpy as np
import pandas as pd

# A lower bound that reaches the smallest distance to this share proves it: the distance is the truth.
PROVED = 1e-3
TRUTH, ENVELOPE = "truth", "nearest of all attacks"


def optimality(distances: pd.DataFrame, reference: pd.Series, lower: pd.Series, right: pd.Series) -> pd.DataFrame:
    """Local optimality of each attack (Cina et al., AttackBench, AAAI 2025, arXiv 2404.19460, equation 5).

    The area under accuracy against epsilon is AUREC(d) = mean(min(d, eps_0)) up to eps_0, the largest finite distance
    of the reference. With the accuracy rho of the network,

        (rho eps_0 - AUREC(attack)) / (rho eps_0 - AUREC(reference)):

    1 where the attack is as near as the reference on every image, 0 where it breaks none. An image that the reference
    does not break counts for neither.

    Args:
        distances: image -> distance of each attack, a column each; 0 where the image is misclassified, inf where the
            attack failed.
        reference: image -> smallest known distance.
        lower: image -> largest lower bound, NaN where there is none.
        right: image -> whether it is classified rightly.

    Returns:
        indexed by attack: images (that are classified rightly), optimality (NaN where the reference has no finite
        distance above 0), unbroken (images without an adversarial one), reference: "truth" where the lower bounds
        prove every distance of the reference, else "nearest of all attacks".
    """
    nearest, own = reference[right], distances[right]
    finite = nearest[np.isfinite(nearest)]
    end = float(finite.max()) if len(finite) else 0.0
    area = float((end - nearest.clip(upper=end)).sum())
    reached = (end - own.clip(upper=end)).sum()
    proved = len(nearest) > 0 and bool((lower[right] >= (1 - PROVED) * nearest).all() and np.isfinite(nearest).all())
    return pd.DataFrame(
        {
            "images": len(nearest),
            "optimality": (reached / area).clip(upper=1.0) if area > 0 else np.nan,
            "unbroken": np.isinf(own).sum(),
            "reference": TRUTH if proved else ENVELOPE,
        },
        index=own.columns,
    )
