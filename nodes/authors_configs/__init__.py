"""YAML configs of the authors' program as workflows of this pack."""
