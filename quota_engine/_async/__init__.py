"""The carriers, as they are written: everything here may wait."""
