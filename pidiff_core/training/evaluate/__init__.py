"""Measures of an adapter: identity by an independent recogniser, text, background, localisation, diversity, edits."""
