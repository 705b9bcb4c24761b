"""Ready programs, each meant to be read and copied."""
