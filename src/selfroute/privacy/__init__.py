"""What may leave the device: detectors, redaction, restoring, and a check of the bytes that are sent."""
