"""Node types, the values that users set, and the validation of graphs."""
