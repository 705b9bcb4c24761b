"""Data: files to examples, and their order."""
