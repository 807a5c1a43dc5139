"""The exact distance of small networks, by branch and bound: needs the extra `exact` (the solver PIQP)."""
