"""The adapted model: `adapt`, what runs in a forward, and how it is saved and loaded."""
