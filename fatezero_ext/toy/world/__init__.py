"""The drawn world of the built-in model: objects, captions, clips."""
