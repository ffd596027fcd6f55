"""Files: images, landmarks, transforms, data sets, and JSON records."""
