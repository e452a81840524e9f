"""images: photographs of some classes, from folders, tars, a hub or noise, for whole backbones as published."""

INPUT = "images"
LOADER = "its own"  # they are read as they are needed, not opened as arrays
