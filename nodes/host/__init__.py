"""The program that the nodes run in."""
