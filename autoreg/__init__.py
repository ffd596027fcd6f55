"""autoreg: deformable medical image registration that configures itself."""

__version__ = "0.1.0"
