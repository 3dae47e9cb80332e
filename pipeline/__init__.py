"""Vesalius: from a folder of scans to a pretrained 3D encoder and an honest transfer verdict."""

__version__ = "0.1.0"
