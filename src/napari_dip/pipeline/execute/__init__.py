"""Execute a plan: work units one after another, tiles, crop previews and shards.

This package decides the order of the fits and what one fit takes over from earlier ones. It also
decides what happens when memory runs out or a GPU fails.
"""
