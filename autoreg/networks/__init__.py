"""Registration networks, each turning a pair of images into coordinate maps."""
