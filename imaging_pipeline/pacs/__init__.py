"""Talking to a PACS: C-STORE and STOW-RS out, C-STORE in. What is loaded with it, only those load that use it."""
