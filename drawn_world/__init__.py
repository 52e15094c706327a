"""The drawn world: renderer, training recipe and judge of the embedded model. Development only."""
