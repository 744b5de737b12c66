"""Media: videos, sound, pictures, and how frames are chosen and cropped."""
