"""What the numbers say: verdict, summaries, confounds, signals."""
