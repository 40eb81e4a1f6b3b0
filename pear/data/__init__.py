"""The offline buffer, rendering of prompts, and trajectories from elsewhere."""
