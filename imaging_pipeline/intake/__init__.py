"""From files to series tasks, by headers only."""
