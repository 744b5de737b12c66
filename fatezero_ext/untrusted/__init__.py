"""What comes from untrusted sources: files are opened if they are plain and bounded, values of configs checked."""
