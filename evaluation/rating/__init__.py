"""A local page on which people compare pictures."""
