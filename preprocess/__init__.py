"""Photographs -> shard set: catalogue, strict decoding, resizing, packing, demo data. No torch."""
