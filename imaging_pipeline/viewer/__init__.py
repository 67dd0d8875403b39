"""A viewer of results in a browser, served to this machine alone."""
