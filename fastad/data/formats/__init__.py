"""What Pillow reads of image files otherwise, or not: metadata, rotation, colour of 16 bits."""
