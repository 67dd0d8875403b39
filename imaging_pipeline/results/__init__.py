"""Label volume → files, receipt, index."""
