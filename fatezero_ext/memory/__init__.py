"""Memory: free and held bytes, and moving models to the device."""
