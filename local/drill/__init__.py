"""Faults on real processes: orders go through while everything breaks, then what was lost or repeated is counted."""
