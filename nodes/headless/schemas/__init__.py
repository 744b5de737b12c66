"""Node types and the validation of their inputs."""
