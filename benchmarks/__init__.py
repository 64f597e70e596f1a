"""Measurements of the pack; results lie in results/, one JSON file for each topic and kind of machine."""
