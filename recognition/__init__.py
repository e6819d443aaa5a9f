"""From a face to a protected template. Knows nothing of the web; usable as a library."""
