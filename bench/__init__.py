"""cxr-bench: one harness that trains, runs and scores unpaired chest X-ray translation methods."""
