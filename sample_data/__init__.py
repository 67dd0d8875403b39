"""A small study to run on, and a generator of studies of any size."""
