"""Style editing in W+: directions, and mixing the levels of two people."""
