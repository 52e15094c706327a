"""Photos on disk become training data: `prepare` writes shards and an index, `PreparedData` reads batches from them."""
