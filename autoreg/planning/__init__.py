"""From a folder of images to a plan and prepared cases."""
