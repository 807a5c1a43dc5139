"""Both bounds in one table, with health flags and the two laws."""
