"""Two sets of masks of the same series, held against each other."""
