"""Plans for the cluster behind the cloud: which rank holds which expert of a mixture-of-experts model."""
