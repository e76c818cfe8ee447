"""Slides as VL Whole Slide Microscopy objects (PS3.3 A.32.8): what samples and converted files share."""
