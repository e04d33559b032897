"""Configurations: YAML, checked by pydantic, with `key=value` overrides and `extends`.

Paths are relative to the file in which they stand, in overrides to the working directory (hyperadapt.files.paths).
"""
