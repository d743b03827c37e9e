"""Sound: reading and writing files, loudness, cutting long recordings into pieces."""
