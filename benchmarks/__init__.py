"""One script per claim; each prints the figures of this project and of its peers from one run."""
