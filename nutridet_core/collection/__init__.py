"""Collections: more photos than one process gets through, listed, cut into shards, and each shard answered once.

Belongs here: where photos of a collection lie, which of them are new, who works on which shard, and the rows that come
of it. Does not belong here: decoding a photo and asking a model (`serving`), or one photo on a command line
(`pipeline.prediction`).

Order of reading: `files` (bytes, in folders and buckets), `references` (the photos of a collection, in order),
`listing` (those that are new, kept in parts), `shards` (what is written of each), `replica` (a loaded model that works
through shards), `ray_pool` (many of them), `progress`, `summary`, and `detection`, the verbs.
"""
