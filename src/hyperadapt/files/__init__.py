"""Files: written in one step or not at all, listed with their digests, locked, read strictly."""
