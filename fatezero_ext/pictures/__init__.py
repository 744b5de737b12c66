"""Pictures: labelled sheets of frames, comparisons and attention."""
